"""What each layer of a model holds, and what its activations need while it runs.

A layer is an operator with constant inputs. Constants that pass through DequantizeLinear, Cast and the like
(in TFLite DEQUANTIZE) count for the operator that computes with them.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from converters.formats import onnx_model, tflite_schema
from converters.formats.onnx_walk import graphs, inner
from converters.formats.sources import SourceModel

_PASSING: Final = frozenset(
    {"DequantizeLinear", "QuantizeLinear", "Cast", "Identity", "Transpose", "DEQUANTIZE", "CAST", "TRANSPOSE"}
)
"""Operators that hand a constant on."""

_PARAMETERS: Final[dict[str, tuple[int, ...]]] = {
    "DequantizeLinear": (0,), "QuantizeLinear": (0,), "MatMulInteger": (0, 1), "ConvInteger": (0, 1),
    "QLinearConv": (0, 3, 8), "QLinearMatMul": (0, 3),
}  # fmt: skip
"""Positions of the inputs that are parameters; the others are scales and zero points. Elsewhere all are."""

_BITS: Final = {
    "FLOAT64": 64, "INT64": 64, "UINT64": 64, "COMPLEX64": 64, "COMPLEX128": 128, "INT16": 16, "UINT16": 16,
    "FLOAT16": 16, "BFLOAT16": 16, "INT8": 8, "UINT8": 8, "BOOL": 8, "INT4": 4, "UINT4": 4, "INT2": 2,
    "RESOURCE": 0, "VARIANT": 0, "STRING": 0,
}  # fmt: skip
"""Of TFLite's datatypes; the others have 32."""


@dataclass(frozen=True, slots=True)
class LayerSize:
    """An operator with weights."""

    name: str
    """The operator's name, or its first output's where it has none."""
    operator: str
    weight_bytes: int
    """Of all its constants, scales and zero points included."""
    parameters: int
    """Elements of its constants, scales and zero points left out."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One operator: what it reads and writes, by tensor name."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    """An optional one that is left out is empty."""
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Constant:
    size_bytes: int
    elements: int


def layer_sizes(source: SourceModel) -> list[LayerSize]:
    """Return the layers in the order of the graph; a constant that several use counts for the first."""
    if source.engine == "tflite":
        found: list[LayerSize] = []
        for graph in source.parsed.subgraphs:
            found += _attribute(_tflite_steps(source.parsed, graph), _tflite_constants(source.parsed, graph))
        return found
    return _attribute(list(_onnx_steps(source.parsed.graph)), _onnx_constants(source.parsed))


def weight_bytes(source: SourceModel) -> int:
    """Return the bytes of all layers' constants."""
    return sum(layer.weight_bytes for layer in layer_sizes(source))


def activation_bytes(source: SourceModel) -> int | None:
    """Return the most bytes of activations that must be held at once, operators run in the order of the graph.

    A free first dimension counts as 1. None where the shape of some tensor is not known before a run. It is a
    lower bound: runtimes add padding and scratch buffers, but may also write results over their inputs.
    """
    if source.engine == "onnx":
        return _onnx_activations(source.parsed)
    peaks = []
    for graph in source.parsed.subgraphs:
        names = [_tensor_name(graph, index) for index in range(len(graph.tensors))]
        constants = _tflite_constants(source.parsed, graph)
        sizes = {
            name: _tflite_bytes(graph.tensors[index])
            for index, name in enumerate(names)
            if name not in constants
        }
        inputs, outputs = ([names[index] for index in ends] for ends in (graph.inputs, graph.outputs))
        peaks.append(_peak(_tflite_steps(source.parsed, graph), sizes, inputs, outputs))
    return max((peak for peak in peaks if peak is not None), default=0) if None not in peaks else None


def _attribute(steps: Sequence[_Step], constants: Mapping[str, _Constant]) -> list[LayerSize]:
    """Give each constant to the first operator that computes with it."""
    held: dict[str, list[tuple[_Constant, bool]]] = {
        name: [(constant, True)] for name, constant in constants.items()
    }
    layers = []
    for step in steps:
        reads = [name for name in step.inputs if name in held]
        positions = _PARAMETERS.get(step.operator, range(len(step.inputs)))
        own = [
            (constant, counts and step.inputs.index(name) in positions)
            for name in dict.fromkeys(reads)
            for constant, counts in held.pop(name)
        ]
        if not own:
            continue
        if step.operator in _PASSING and step.inputs[0] in reads:
            held[step.outputs[0]] = own
            continue
        layers.append(
            LayerSize(
                step.name,
                step.operator,
                sum(constant.size_bytes for constant, _ in own),
                sum(constant.elements for constant, counts in own if counts),
            )
        )
    return layers


def _peak(
    steps: Sequence[_Step], sizes: Mapping[str, int | None], inputs: Iterable[str], outputs: Iterable[str]
) -> int | None:
    """Return the peak of what is alive: from the operator that writes a tensor to the last that reads it."""
    last = {name: index for index, step in enumerate(steps) for name in step.inputs}
    last |= dict.fromkeys(outputs, len(steps))
    alive = {name: sizes.get(name) for name in inputs if name in sizes}
    most = 0
    for index, step in enumerate(steps):
        alive |= {name: sizes.get(name) for name in step.outputs if name}
        if None in alive.values():
            return None
        most = max(most, sum(size for size in alive.values() if size is not None))
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > index}
    return most


def _onnx_steps(graph: Any) -> Iterator[_Step]:
    """Go through a graph and, before the operator that holds them, its subgraphs."""
    for node in graph.node:
        for held in inner(node):
            yield from _onnx_steps(held)
        if node.op_type != "Constant":
            yield _Step(node.name or node.output[0], node.op_type, tuple(node.input), tuple(node.output))


def _onnx_constants(model: Any) -> dict[str, _Constant]:
    found: dict[str, _Constant] = {}
    for graph in graphs(model.graph):
        found |= {tensor.name: _onnx_constant(tensor) for tensor in graph.initializer}
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.HasField("t"):
                    found[node.output[0]] = _onnx_constant(attribute.t)
    return found


def _onnx_constant(tensor: Any) -> _Constant:
    elements = math.prod(tensor.dims)
    bits = onnx_model.element_bits(tensor.data_type)
    size_bytes = (elements * bits + 7) // 8 if bits is not None else sum(map(len, tensor.string_data))
    return _Constant(size_bytes, elements)


def _onnx_activations(model: Any) -> int | None:
    shapes = onnx_model.tensor_shapes(model)
    constants = _onnx_constants(model)
    sizes = {
        name: None if shape is None else (math.prod(shape) * bits + 7) // 8
        for name, (bits, shape) in shapes.items()
        if name not in constants
    }
    # Subgraphs run inside their operator: their tensors are not told apart here.
    names = {name for step in _top_steps(model.graph) for name in step.outputs}
    inputs = [value.name for value in model.graph.input]
    known = {name: sizes.get(name) for name in (*inputs, *names) if name not in constants}
    return _peak(_top_steps(model.graph), known, inputs, [value.name for value in model.graph.output])


def _top_steps(graph: Any) -> list[_Step]:
    return [
        _Step(node.name, node.op_type, tuple(filter(None, node.input)), tuple(filter(None, node.output)))
        for node in graph.node
        if node.op_type != "Constant"
    ]


def _tflite_steps(model: Any, graph: Any) -> list[_Step]:
    steps = []
    for operator in graph.operators:
        inputs, outputs = (
            tuple(_tensor_name(graph, index) if index >= 0 else "" for index in ends)
            for ends in (_indexes(operator.inputs), _indexes(operator.outputs))
        )
        name = _plain_name(outputs[0]) if outputs else ""
        steps.append(_Step(name, tflite_schema.operator_name(model, operator), inputs, outputs))
    return steps


def _tflite_constants(model: Any, graph: Any) -> dict[str, _Constant]:
    found: dict[str, _Constant] = {}
    seen: Counter[int] = Counter()
    for index, tensor in enumerate(graph.tensors):
        data = model.buffers[tensor.buffer].data
        if data is None or not len(data):
            continue
        # A buffer that two tensors share is in the file once.
        size_bytes = 0 if seen[tensor.buffer] else len(data)
        seen[tensor.buffer] += 1
        found[_tensor_name(graph, index)] = _Constant(size_bytes, math.prod(_indexes(tensor.shape)))
    return found


def _tflite_bytes(tensor: Any) -> int | None:
    shape = _indexes(tensor.shapeSignature) or _indexes(tensor.shape)
    sizes = [1 if axis == 0 and size == -1 else size for axis, size in enumerate(shape)]
    if any(size < 0 for size in sizes):
        return None
    return (math.prod(sizes) * _BITS.get(tflite_schema.datatype(tensor), 32) + 7) // 8


def _tensor_name(graph: Any, index: int) -> str:
    """Return a name that is this tensor's alone: names may repeat within a TFLite graph."""
    return f"{index}:{bytes(graph.tensors[index].name or b'').decode(errors='replace')}"


def _plain_name(name: str) -> str:
    return name.partition(":")[2]


def _indexes(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]
