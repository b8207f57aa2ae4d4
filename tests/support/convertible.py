"""Small models to convert, made here: a CNN on four kinds of synthetic images, as ONNX and as TFLite.

The filters are random, the last layer is fitted by least squares; about 100 % of unseen images are recognised.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 12
FILTERS = 16
POOLED = 5
CLASSES = 4

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Images:
    """Images [n, 12, 12] with values 0 to 1, and the class of each."""

    pixels: Floats
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class Weights:
    """A fitted CNN: filters [16, 3, 3], last layer [16 * 5 * 5, 4] over channels first, bias [4]."""

    filters: Floats
    last: Floats
    bias: Floats


def images(count: int, seed: int = 1) -> Images:
    """Draw horizontal and vertical bars, diagonals and squares, with noise."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, CLASSES, count)
    pixels = random.random((count, SIDE, SIDE), dtype=np.float32) * 0.3
    for image, kind in zip(pixels, classes, strict=True):
        at = int(random.integers(2, SIDE - 3))
        if kind == 0:
            image[at] += 0.7
        elif kind == 1:
            image[:, at] += 0.7
        elif kind == 2:
            image[np.arange(SIDE), np.arange(SIDE)] += 0.7
        else:
            image[at - 2 : at + 3, at - 2 : at + 3] += 0.7
    return Images(np.clip(pixels, 0, 1), classes)


def fitted() -> Weights:
    """Fit the last layer to 600 images."""
    random = np.random.default_rng(0)
    filters = random.normal(0, 1, (FILTERS, 3, 3)).astype(np.float32)
    training = images(600, seed=0)
    features = _features(training.pixels, filters)
    design = np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)
    target = np.eye(CLASSES, dtype=np.float32)[training.classes]
    ridge = design.T @ design + 10 * np.eye(design.shape[1], dtype=np.float32)
    solution = np.linalg.solve(ridge, design.T @ target).astype(np.float32)
    return Weights(filters, solution[:-1], solution[-1])


def _features(pixels: Floats, filters: Floats) -> Floats:
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), axis=(1, 2))
    convolved = np.maximum(np.einsum("nxyab,fab->nfxy", windows, filters), 0)
    pooled = convolved.reshape(len(pixels), FILTERS, POOLED, 2, POOLED, 2).max(axis=(3, 5))
    flat: Floats = pooled.reshape(len(pixels), -1)
    return flat


def write_onnx(path: Path, weights: Weights, opset: int = 17) -> Path:
    """Write the CNN as ONNX: `image` FP32 [n, 1, 12, 12] to `scores` FP32 [n, 4]."""
    constants = {
        "filters": weights.filters[:, None],
        "last": weights.last,
        "bias": weights.bias,
    }
    nodes = [
        helper.make_node("Conv", ["image", "filters"], ["convolved"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["convolved"], ["positive"]),
        helper.make_node("MaxPool", ["positive"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "last", "bias"], ["scores"]),
    ]
    return save_onnx(path, nodes, constants, ["n", 1, SIDE, SIDE], ["n", CLASSES], opset=opset)


def save_onnx(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.float32]],
    shape: list[int | str],
    output_shape: list[int | str],
    opset: int = 17,
) -> Path:
    """Write an ONNX model from `image` to `scores`, both FP32."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def write_tflite(path: Path, weights: Weights, *, half: bool = False, old: bool = False) -> Path:
    """Write the CNN as TFLite: `image` FP32 [1, 12, 12, 1] to `scores` FP32 [1, 4].

    `half` keeps float16 weights behind DEQUANTIZE operators; `old` writes operator codes in the deprecated
    field alone. Both are how mediapipe's files are.
    """
    last = weights.last.reshape(FILTERS, POOLED, POOLED, CLASSES).transpose(3, 1, 2, 0)
    builder = _Builder(half=half, old=old)
    image = builder.tensor("image", (1, SIDE, SIDE, 1))
    filters = builder.constant("filters", weights.filters[..., None])
    zeros = builder.constant("zeros", np.zeros(FILTERS, np.float32))
    matrix = builder.constant("last", last.reshape(CLASSES, -1))
    bias = builder.constant("bias", weights.bias)
    convolved = builder.tensor("convolved", (1, SIDE - 2, SIDE - 2, FILTERS))
    pooled = builder.tensor("pooled", (1, POOLED, POOLED, FILTERS))
    scores = builder.tensor("scores", (1, CLASSES))
    builder.operator("CONV_2D", _convolution(), [image, filters, zeros], [convolved])
    builder.operator("MAX_POOL_2D", _pooling(), [convolved], [pooled])
    builder.operator("FULLY_CONNECTED", schema.FullyConnectedOptionsT(), [pooled, matrix, bias], [scores])
    path.write_bytes(builder.finish([image], [scores]))
    return path


def _convolution() -> schema.Conv2DOptionsT:
    options = schema.Conv2DOptionsT()
    options.padding, options.strideW, options.strideH = schema.Padding.VALID, 1, 1
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    return options


def _pooling() -> schema.Pool2DOptionsT:
    options = schema.Pool2DOptionsT()
    options.padding, options.strideW, options.strideH = schema.Padding.VALID, 2, 2
    options.filterWidth = options.filterHeight = 2
    return options


class _Builder:
    """Collects tensors and operators of one TFLite graph."""

    def __init__(self, *, half: bool, old: bool) -> None:
        self._half, self._old = half, old
        self._model = schema.ModelT()
        self._model.version, self._model.operatorCodes = 3, []
        self._model.buffers = [schema.BufferT()]
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []

    def tensor(self, name: str, shape: tuple[int, ...], kind: int = schema.TensorType.FLOAT32) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), list(shape), kind, 0
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def constant(self, name: str, array: Floats) -> int:
        if not self._half:
            return self._stored(name, array, schema.TensorType.FLOAT32)
        stored = self._stored(f"{name}_half", array.astype(np.float16), schema.TensorType.FLOAT16)
        index = self.tensor(name, array.shape)
        self.operator("DEQUANTIZE", schema.DequantizeOptionsT(), [stored], [index])
        return index

    def operator(self, name: str, options: object, inputs: list[int], outputs: list[int]) -> None:
        code = schema.OperatorCodeT()
        number = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode, code.builtinCode, code.version = number, 0 if self._old else number, 1
        if name == "DEQUANTIZE":
            code.version = 3
        self._model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self._model.operatorCodes) - 1
        operator.inputs, operator.outputs = inputs, outputs
        kind = type(options).__name__.removesuffix("T")
        operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, kind), options
        self._graph.operators.append(operator)

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        self._graph.inputs, self._graph.outputs = inputs, outputs
        self._model.subgraphs = [self._graph]
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self._model))

    def _stored(self, name: str, array: NDArray[np.floating], kind: int) -> int:
        buffer = schema.BufferT()
        buffer.data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._model.buffers.append(buffer)
        index = self.tensor(name, array.shape, kind)
        self._graph.tensors[index].buffer = len(self._model.buffers) - 1
        return index


def installed(package: str, file: str) -> Path:
    """Return a file inside an installed package."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / file


def magika() -> Path:
    """Return the ONNX model of Magika: `bytes` INT32 [n, 2048] to `target_label` FP32 [n, 214]."""
    return installed("magika", "models/standard_v3_3/model.onnx")


def okay_nabu() -> Path:
    """Return a streaming int8 TFLite model, which keeps state between calls."""
    return installed("pymicro_wakeword", "models/okay_nabu.tflite")
