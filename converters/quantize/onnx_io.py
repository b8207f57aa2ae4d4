"""Integers at the ends of a static int8 ONNX model, in place of the floats that the quantizer keeps there."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.errors import ConversionError

Ranges = Mapping[str, tuple[float, float]]
"""Lowest and highest value by tensor name."""

Parameters = dict[str, tuple[float, int]]
"""Scale and zero point by tensor name: `value = scale * (integer - zero point)`."""


def to_integers(model: Any, ranges: Ranges, *, signed: bool) -> None:
    """Make the float inputs and outputs integers of a scale and zero point, in place; the names stay.

    What the quantizer put there is used. Where a node in float is first or last, a DequantizeLinear or
    QuantizeLinear of its own is put there, from the range of the tensor. Raises ConversionError without one.
    """
    from onnx import TensorProto

    kind = TensorProto.INT8 if signed else TensorProto.UINT8
    for value in model.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            _open_input(model.graph, value.name, ranges, kind)
            value.type.tensor_type.elem_type = kind
    for value in model.graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            _open_output(model.graph, value.name, ranges, kind)
            value.type.tensor_type.elem_type = kind


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


def _open_input(graph: Any, name: str, ranges: Ranges, kind: int) -> None:
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == name]
    how = list(quantizers[0].input[1:]) if quantizers else _stored_parameters(graph, name, ranges, kind)
    same = [node for node in quantizers if list(node.input[1:]) == how]
    _rename_inputs(graph, {node.output[0]: f"{name}_integers" for node in same} | {name: f"{name}_float"})
    for node in same:
        graph.node.remove(node)
    _rename_inputs(graph, {f"{name}_integers": name})
    if any(f"{name}_float" in node.input for node in graph.node):
        graph.node.insert(0, _node("DequantizeLinear", name, how, f"{name}_float"))


def _open_output(graph: Any, name: str, ranges: Ranges, kind: int) -> None:
    maker = next(node for node in graph.node if name in node.output)
    outside = {one.name for one in (*graph.input, *graph.output)}
    inner = f"{name}_float"
    _rename_inputs(graph, {name: inner})
    maker.output[:] = [inner if one == name else one for one in maker.output]
    if maker.op_type != "DequantizeLinear" or maker.input[0] in outside:
        how = _stored_parameters(graph, name, ranges, kind)
        graph.node.append(_node("QuantizeLinear", inner, how, name))
        return
    integers = maker.input[0]
    if not any(inner in node.input for node in graph.node):
        graph.node.remove(maker)
    _rename_inputs(graph, {integers: name})
    for node in graph.node:
        node.output[:] = [name if one == integers else one for one in node.output]


def _rename_inputs(graph: Any, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _node(operator: str, source: str, how: list[str], target: str) -> Any:
    from onnx import helper

    return helper.make_node(operator, [source, *how], [target], name=f"{target}_{operator}")


def _stored_parameters(graph: Any, name: str, ranges: Ranges, kind: int) -> list[str]:
    """Store scale and zero point for a tensor's range, with zero in it, and return their names."""
    from onnx import TensorProto, numpy_helper

    if name not in ranges:
        raise ConversionError(
            f"'{name}' cannot be integers, since calibration found no range for it; ask for io = 'float'."
        )
    low, high = min(0.0, ranges[name][0]), max(0.0, ranges[name][1])
    ends = np.iinfo(np.int8 if kind == TensorProto.INT8 else np.uint8)
    scale = np.float32((high - low) / (ends.max - ends.min) or 1.0)
    zero = np.asarray(np.clip(np.rint(ends.min - low / scale), ends.min, ends.max), ends.dtype)
    names = [f"{name}_io_scale", f"{name}_io_zero_point"]
    graph.initializer.append(numpy_helper.from_array(np.asarray(scale), names[0]))
    graph.initializer.append(numpy_helper.from_array(zero, names[1]))
    return names


def _parameters(stored: dict[str, Any], node: Any) -> tuple[float, int]:
    from onnx import numpy_helper

    scale, zero = (numpy_helper.to_array(stored[name]) for name in node.input[1:3])
    return float(np.asarray(scale).reshape(-1)[0]), int(np.asarray(zero).reshape(-1)[0])
