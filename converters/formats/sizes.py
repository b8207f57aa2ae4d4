"""Where a model's bytes are: weights by layer, and the memory that activations take at most."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from converters.formats.sources import SourceModel
from converters.formats.tflite_schema import length, operator_name, schema, tensor_name

_PASSING: Final = frozenset({"DequantizeLinear", "Cast", "Transpose", "Identity", "Reshape", "DEQUANTIZE"})
"""Operators that hand a constant on: its bytes belong to the layer that uses it."""

_WIDTHS: Final = {"INT4": 0.5, "BOOL": 1, "COMPLEX64": 8, "COMPLEX128": 16, "BFLOAT16": 2}
"""Bytes of an element of the TFLite datatypes that numpy does not have by the same name."""


@dataclass(frozen=True, slots=True)
class LayerSize:
    """Weights of one layer."""

    name: str
    """An ONNX node, or a TFLite operator's output tensor."""
    operator: str
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class ActivationSize:
    """An estimate for one sample: what is alive at the busiest operator, without a runtime's own buffers."""

    peak_bytes: int
    unknown: int
    """Tensors that count as nothing, since their shapes are not known before the model runs."""


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def layer_sizes(source: SourceModel) -> list[LayerSize]:
    """Return the layers that have weights, largest first; a constant counts for its first user."""
    nodes, constants = _tflite_parts(source.parsed) if source.engine == "tflite" else _onnx_parts(source.parsed)
    pending = Counter(constants)
    sizes = []
    for node in nodes:
        weights = sum(pending.pop(name, 0) for name in node.inputs)
        if weights and node.operator in _PASSING and len(node.outputs) == 1:
            pending[node.outputs[0]] = weights
        elif weights:
            sizes.append(LayerSize(node.name, node.operator, weights))
    return sorted(sizes, key=lambda layer: -layer.weight_bytes)


def activation_bytes(source: SourceModel) -> ActivationSize:
    """Estimate the memory for activations with free dimensions of 1, operators in the file's order."""
    model = source.parsed
    if source.engine == "tflite":
        nodes, constants = _tflite_parts(model)
        graph = model.subgraphs[0]
        sizes = _tflite_activations(graph)
        ends = [tensor_name(graph.tensors[index]) for index in (*graph.inputs, *graph.outputs)]
    else:
        nodes, constants = _onnx_parts(model)
        sizes = _onnx_activations(model)
        ends = [value.name for value in (*model.graph.input, *model.graph.output)]
    return _peak(nodes, {name: size for name, size in sizes.items() if name not in constants}, constants, ends)


def _peak(
    nodes: Sequence[_Node], sizes: Mapping[str, int], constants: Mapping[str, int], ends: Iterable[str]
) -> ActivationSize:
    """Walk the operators; a tensor lives from its producer to its last user, inputs and outputs throughout."""
    last = {name: index for index, node in enumerate(nodes) for name in node.inputs}
    kept = set(ends)
    alive = {name: sizes.get(name, 0) for name in kept}
    peak, unknown = sum(alive.values()), sum(name not in sizes for name in kept)
    for index, node in enumerate(nodes):
        made = [name for name in node.outputs if name and name not in kept and name not in constants]
        unknown += sum(name not in sizes for name in made)
        alive |= {name: sizes.get(name, 0) for name in made}
        peak = max(peak, sum(alive.values()))
        for name in (*node.inputs, *made):
            if name not in kept and last.get(name, index) <= index:
                alive.pop(name, None)
    return ActivationSize(peak, unknown)


def _onnx_parts(model: Any) -> tuple[list[_Node], dict[str, int]]:
    constants = {tensor.name: _stored_bytes(tensor) for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = sum(_stored_bytes(one.t) for one in node.attribute if one.HasField("t"))
            continue
        name = node.name or (node.output[0] if node.output else node.op_type)
        nodes.append(_Node(name, node.op_type, tuple(node.input), tuple(node.output)))
    return nodes, constants


def _stored_bytes(tensor: Any) -> int:
    return len(tensor.raw_data) or math.prod(tensor.dims) * _onnx_width(tensor.data_type)


def _onnx_width(kind: int) -> int:
    from onnx import helper

    try:
        return helper.tensor_dtype_to_np_dtype(kind).itemsize
    except (KeyError, TypeError):
        # No datatype, or one that is none.
        return 0


def _onnx_activations(model: Any) -> dict[str, int]:
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:
        # A partial answer: the shapes that the file itself tells.
        inferred = model
    graph = inferred.graph
    sizes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            continue
        dims = [one.dim_value if one.HasField("dim_value") else 1 for one in kind.shape.dim]
        sizes[value.name] = math.prod(dims) * _onnx_width(kind.elem_type)
    return sizes


def _tflite_parts(model: Any) -> tuple[list[_Node], dict[str, int]]:
    graph = model.subgraphs[0]
    names = [tensor_name(tensor) or f"tensor {index}" for index, tensor in enumerate(graph.tensors)]
    constants = {
        name: size
        for name, tensor in zip(names, graph.tensors, strict=True)
        if (size := length(model.buffers[tensor.buffer]))
    }
    nodes = []
    for operator in graph.operators:
        inputs = tuple(names[index] for index in operator.inputs if index >= 0)
        outputs = tuple(names[index] for index in (operator.outputs or ()))
        kind = operator_name(model, operator)
        nodes.append(_Node(outputs[0] if outputs else kind, kind, inputs, outputs))
    return nodes, constants


def _tflite_activations(graph: Any) -> dict[str, int]:
    sizes = {}
    for index, tensor in enumerate(graph.tensors):
        kind = schema().types[tensor.type]
        if tensor.shape is None or kind in ("STRING", "RESOURCE", "VARIANT"):
            continue
        width = _WIDTHS.get(kind) or np.dtype(kind.lower()).itemsize
        dims = [max(1, int(size)) for size in tensor.shape]
        sizes[tensor_name(tensor) or f"tensor {index}"] = math.ceil(math.prod(dims) * width)
    return sizes
