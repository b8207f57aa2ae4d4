"""The models that the servers are compared with, written as ONNX files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE = (1, 3, 320, 320)
"""1.2 MB of FP32."""
SLOW = (1, 3, 64, 64)
SMALL = (1, 1, 28, 28)


def add_sub(folder: Path) -> Path:
    """INPUT0 + INPUT1 and INPUT0 - INPUT1 on INT32 [n, 16], as Triton's `simple`."""
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    tensor = (TensorProto.INT32, ["n", 16])
    names = {"INPUT0": tensor, "INPUT1": tensor}, {"OUTPUT0": tensor, "OUTPUT1": tensor}
    return _save(folder / "add_sub.onnx", nodes, *names)


def image(folder: Path) -> Path:
    """The mean of an image, on FP32 [1, 3, 320, 320]: next to no work with a large input."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["y"])]
    return _save(
        folder / "image.onnx",
        nodes,
        {"x": (TensorProto.FLOAT, IMAGE)},
        {"y": (TensorProto.FLOAT, (1, 3, 1, 1))},
    )


def slow(folder: Path) -> Path:
    """Convolutions that take some 10 ms with one thread, on FP32 [1, 3, 64, 64]."""
    return _convolutions(folder / "slow.onnx", SLOW, layers=11, channels=64)


def small(folder: Path) -> Path:
    """The usual small CNN for digits: two convolutions and two dense layers, on FP32 [n, 1, 28, 28]."""
    draw = np.random.default_rng(0)
    shapes = {"w1": (32, 1, 3, 3), "w2": (64, 32, 3, 3), "w3": (64 * 14 * 14, 128), "w4": (128, 10)}
    weights = [
        numpy_helper.from_array((draw.standard_normal(shape) * 0.05).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Flatten", ["r2"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["d1"]),
        helper.make_node("Relu", ["d1"], ["r3"]),
        helper.make_node("MatMul", ["r3", "w4"], ["y"]),
    ]
    given = {"x": (TensorProto.FLOAT, ["n", *SMALL[1:]])}
    return _save(folder / "small.onnx", nodes, given, {"y": (TensorProto.FLOAT, ["n", 10])}, weights)


def random(shape: Sequence[int]) -> Any:
    """Return FP32 values of this shape, always the same."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _convolutions(path: Path, shape: Sequence[int], layers: int, channels: int) -> Path:
    draw = np.random.default_rng(0)
    nodes, weights, before, width = [], [], "x", shape[1]
    for number in range(layers):
        kernel = (draw.standard_normal((channels, width, 3, 3)) * 0.05).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{number}"))
        nodes.append(helper.make_node("Conv", [before, f"w{number}"], [f"c{number}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        before, width = f"r{number}", channels
    nodes.append(helper.make_node("GlobalAveragePool", [before], ["y"]))
    given = {"x": (TensorProto.FLOAT, ["n", *shape[1:]])}
    return _save(path, nodes, given, {"y": (TensorProto.FLOAT, ["n", channels, 1, 1])}, weights)


def _save(path: Path, nodes: Any, inputs: Any, outputs: Any, weights: Any = ()) -> Path:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in inputs.items()],
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in outputs.items()],
        list(weights),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
