"""Models to write processing around, in both formats: some that answer what they get, and one that hears."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper

from support.convertible import _Builder as Builder

EXAMPLES = Path(__file__).parents[2] / "examples" / "converters"


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


sounds = _example("make_sounds")
"""The example's model of sound, its data, and log-mel spectrograms by the fast Fourier transform."""


def onnx_mirror(
    path: Path, shape: tuple[int | str, ...], *, kind: int = TensorProto.FLOAT, opset: int = 17, **names: str
) -> Path:
    """Write a model that answers `seen`, what it gets at `given`; `names` give other names, also of `inner`."""
    given, inner, seen = (names.get(name, name) for name in ("given", "inner", "seen"))
    nodes = [helper.make_node("Identity", [given], [inner]), helper.make_node("Identity", [inner], [seen])]
    graph = helper.make_graph(
        nodes,
        "mirror",
        [helper.make_tensor_value_info(given, kind, shape)],
        [helper.make_tensor_value_info(seen, kind, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def tflite_mirror(
    path: Path, shape: tuple[int, ...], *, kind: int = schema.TensorType.FLOAT32, **names: str
) -> Path:
    """Write the same as TFLite; -1 is a free dimension."""
    builder = Builder(half=False, old=False)
    fixed = tuple(max(1, size) for size in shape)
    given, inner, seen = (
        builder.tensor(names.get(name, name), fixed, kind) for name in ("given", "inner", "seen")
    )
    for index in (given, inner, seen):
        builder._graph.tensors[index].shapeSignature = list(shape) if -1 in shape else None
    one = builder.constant("one", np.ones(1, np.float32))
    builder.operator("MUL", schema.MulOptionsT(), [given, one], [inner])
    builder.operator("MUL", schema.MulOptionsT(), [inner, one], [seen])
    path.write_bytes(builder.finish([given], [seen]))
    return path


def tflite_ears(path: Path) -> Path:
    """Write the example's CNN as TFLite: `sound` FP32 [1, frames, bands, 1] to `scores` FP32 [1, 3]."""
    ears, frames, bands = sounds.fitted(), sounds.FRAMES, sounds.BANDS
    count, kinds = len(ears.filters), len(sounds.KINDS)
    last = ears.last.reshape(count, bands - 2, kinds).transpose(2, 1, 0)
    builder = Builder(half=False, old=False)
    sound = builder.tensor("sound", (1, frames, bands, 1))
    filters = builder.constant("filters", ears.filters[..., None])
    zeros = builder.constant("zeros", np.zeros(count, np.float32))
    matrix = builder.constant("last", last.reshape(kinds, -1))
    bias = builder.constant("bias", ears.bias)
    convolved = builder.tensor("convolved", (1, frames - 2, bands - 2, count))
    pooled = builder.tensor("pooled", (1, 1, bands - 2, count))
    scores = builder.tensor("scores", (1, kinds))
    convolution, pooling = schema.Conv2DOptionsT(), schema.Pool2DOptionsT()
    convolution.padding = pooling.padding = schema.Padding.VALID
    convolution.strideW = convolution.strideH = pooling.strideW = pooling.strideH = 1
    convolution.fusedActivationFunction = schema.ActivationFunctionType.RELU
    pooling.filterHeight, pooling.filterWidth = frames - 2, 1
    builder.operator("CONV_2D", convolution, [sound, filters, zeros], [convolved])
    builder.operator("AVERAGE_POOL_2D", pooling, [convolved], [pooled])
    builder.operator("FULLY_CONNECTED", schema.FullyConnectedOptionsT(), [pooled, matrix, bias], [scores])
    path.write_bytes(builder.finish([sound], [scores]))
    return path
