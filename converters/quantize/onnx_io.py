"""Integers at the ends of a static int8 ONNX model, in place of the floats that the quantizer keeps there."""

from typing import Any

import numpy as np

from converters.errors import ConversionError

Parameters = dict[str, tuple[float, int]]
"""Scale and zero point by tensor name: `value = scale * (integer - zero point)`."""


def to_integers(model: Any) -> None:
    """Take QuantizeLinear off the float inputs and DequantizeLinear off the float outputs, in place.

    The names stay. Raises ConversionError when one of them is used or made by a node in float.
    """
    from onnx import TensorProto

    graph = model.graph
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            _open_input(graph, value)
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            _open_output(graph, value)


def io_parameters(model: Any) -> Parameters:
    """Return how the integers of a model's inputs and outputs are read; empty where they are float."""
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    inputs, outputs = ({value.name for value in values} for values in (graph.input, graph.output))
    found = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in inputs and node.input[1] in stored:
            found[node.input[0]] = _parameters(stored, node)
        if node.op_type == "QuantizeLinear" and node.output[0] in outputs and node.input[1] in stored:
            found[node.output[0]] = _parameters(stored, node)
    return found


def _open_input(graph: Any, value: Any) -> None:
    users = [node for node in graph.node if value.name in node.input]
    kinds = {node.op_type for node in users}
    if kinds != {"QuantizeLinear"} or len({tuple(node.input[1:]) for node in users}) != 1:
        raise ConversionError(_in_float("input", value.name))
    inner = {node.output[0] for node in users}
    value.type.tensor_type.elem_type = _integer_type(graph, users[0])
    for node in users:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [value.name if name in inner else name for name in node.input]


def _open_output(graph: Any, value: Any) -> None:
    maker = next((node for node in graph.node if value.name in node.output), None)
    source = maker.input[0] if maker is not None else ""
    quantizer = next((node for node in graph.node if source in node.output), None)
    outside = {one.name for one in (*graph.input, *graph.output)}
    if maker is None or maker.op_type != "DequantizeLinear" or quantizer is None or source in outside:
        raise ConversionError(_in_float("output", value.name))
    value.type.tensor_type.elem_type = _integer_type(graph, maker)
    if any(value.name in node.input for node in graph.node):
        # Nodes inside read the float form of it too.
        inner = f"{value.name}_float"
        for node in graph.node:
            node.input[:] = [inner if name == value.name else name for name in node.input]
        maker.output[0] = inner
    else:
        graph.node.remove(maker)
    for node in graph.node:
        node.input[:] = [value.name if name == source else name for name in node.input]
        node.output[:] = [value.name if name == source else name for name in node.output]


def _integer_type(graph: Any, node: Any) -> int:
    kind = next(tensor.data_type for tensor in graph.initializer if tensor.name == node.input[2])
    return int(kind)


def _parameters(stored: dict[str, Any], node: Any) -> tuple[float, int]:
    from onnx import numpy_helper

    scale, zero = (numpy_helper.to_array(stored[name]) for name in node.input[1:3])
    return float(np.asarray(scale).reshape(-1)[0]), int(np.asarray(zero).reshape(-1)[0])


def _in_float(kind: str, name: str) -> str:
    return (
        f"The int8 variant cannot have integers at its {kind} '{name}', since what is there stays in float; "
        "ask for io = 'float', or do not exclude the layers beside it."
    )
