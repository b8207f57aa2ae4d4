"""A small classifier of which plain int8 loses most: one value between its layers is thousands of times larger.

Five dense layers on the synthetic images; hidden value 0 after the second layer is scaled up and the third
layer's weights for it down, so the float model answers as if nothing had happened. The others share its int8
range and become zero.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from onnx import helper

from support import convertible
from support.convertible import CLASSES, SIDE, Floats

WIDTHS = (SIDE * SIDE, 48, 48, 48, 48, CLASSES)
BEFORE, AFTER = "dense_1", "dense_2"
"""The layers beside the large value."""
SCALE = np.float32(5000)


@dataclass(frozen=True)
class Uneven:
    """Weights [inputs, outputs] and biases [outputs] of each layer, ReLU between them."""

    matrices: tuple[Floats, ...]
    biases: tuple[Floats, ...]


def fitted() -> Uneven:
    """Draw the hidden layers and fit the last one to 800 images."""
    random = np.random.default_rng(3)
    training = convertible.images(800, seed=0)
    hidden = training.pixels.reshape(len(training.pixels), -1)
    matrices, biases = [], []
    for inputs, outputs in pairwise(WIDTHS[:-1]):
        matrix = random.normal(0, (2 / inputs) ** 0.5, (inputs, outputs)).astype(np.float32)
        answer = hidden @ matrix
        bias = -answer.mean(axis=0)
        hidden = np.maximum(answer + bias, 0)
        matrices.append(matrix)
        biases.append(bias.astype(np.float32))
    design = np.concatenate([hidden, np.ones((len(hidden), 1), np.float32)], axis=1)
    target = np.eye(CLASSES, dtype=np.float32)[training.classes]
    ridge = design.T @ design + 0.1 * np.eye(design.shape[1], dtype=np.float32)
    solution = np.linalg.solve(ridge, design.T @ target).astype(np.float32)
    matrices[1][:, 0] *= SCALE
    biases[1][0] *= SCALE
    matrices[2][0] /= SCALE
    return Uneven((*matrices, solution[:-1]), (*biases, solution[-1]))


def write_onnx(path: Path, weights: Uneven) -> Path:
    """Write it as ONNX: `image` FP32 [n, 144] to `scores` FP32 [n, 4], nodes `dense_0` to `dense_4`."""
    nodes, constants, before = [], {}, "image"
    last = len(weights.matrices) - 1
    for index, (matrix, bias) in enumerate(zip(weights.matrices, weights.biases, strict=True)):
        constants |= {f"matrix_{index}": matrix, f"bias_{index}": bias}
        after = "scores" if index == last else f"sum_{index}"
        inputs = [before, f"matrix_{index}", f"bias_{index}"]
        nodes.append(helper.make_node("Gemm", inputs, [after], name=f"dense_{index}"))
        if index != last:
            nodes.append(helper.make_node("Relu", [after], [f"positive_{index}"], name=f"relu_{index}"))
        before = f"positive_{index}"
    return convertible.save_onnx(path, nodes, constants, ["n", WIDTHS[0]], ["n", CLASSES])


def write_tflite(path: Path, weights: Uneven) -> Path:
    """Write it as TFLite: `image` FP32 [1, 144] to `scores` FP32 [1, 4], tensors `dense_0` to `dense_3`."""
    builder = convertible._Builder(half=False, old=False)
    image = before = builder.tensor("image", (1, WIDTHS[0]))
    last = len(weights.matrices) - 1
    for index, (matrix, bias) in enumerate(zip(weights.matrices, weights.biases, strict=True)):
        options = schema.FullyConnectedOptionsT()
        if index != last:
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        inputs = [
            before,
            builder.constant(f"matrix_{index}", np.ascontiguousarray(matrix.T)),
            builder.constant(f"bias_{index}", bias),
        ]
        name = "scores" if index == last else f"dense_{index}"
        before = builder.tensor(name, (1, matrix.shape[1]))
        builder.operator("FULLY_CONNECTED", options, inputs, [before])
    path.write_bytes(builder.finish([image], [before]))
    return path
