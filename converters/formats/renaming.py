"""Names in exported files: clean ones for inputs and outputs, and inner ones that are the same in every process.

Exporters number what they generate with counters that live as long as the process; two exports of one model
would differ by them alone.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from converters.formats import tflite_model

BATCH: Final = "batch"
"""What the free first dimension is called in ONNX files."""

_COUNTED: Final = re.compile(r"(_frozen_|__|_inference_\w*?_|(?<=cond_)|(?<=body_))\d+")
"""Numbers from counters: TensorFlow's of functions, tf2onnx's of nodes."""


def renamed_onnx(model: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Rename an `onnx.ModelProto`'s inputs and outputs, from old name to new, and put them in that order.

    Inner names lose the numbers of counters, initializers come in the order of their names, and the free first
    dimension becomes `batch`.
    """
    graph = model.graph
    _reorder(graph.input, list(inputs))
    _reorder(graph.output, list(outputs))
    names: dict[str, str] = {**inputs, **outputs}
    taken = set(names.values())
    for name in _tensor_names(graph):
        if name and name not in names:
            names[name] = _unused(_COUNTED.sub("", name), taken)
    _apply(graph, names)
    _clean_nodes(graph, set())
    _clean_dimensions(graph)
    _sort_initializers(graph)
    graph.name, graph.doc_string, model.doc_string = "model", "", ""


def renamed_tflite(content: bytes, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> bytes:
    """Return a TFLite file with other names of inputs and outputs, from old tensor name to new, in that order.

    The file gets one signature, `serving_default`, with the new names. Inner tensors of the same name as an
    input or output get another, since runtimes look tensors up by name.
    """
    model = tflite_model.read_content(content)
    graph = model.subgraphs[0]
    graph.inputs = [_position(graph, graph.inputs, name) for name in inputs]
    graph.outputs = [_position(graph, graph.outputs, name) for name in outputs]
    named = dict(zip([*graph.inputs, *graph.outputs], [*inputs.values(), *outputs.values()], strict=True))
    taken = {name.encode() for name in named.values()}
    for index, tensor in enumerate(graph.tensors):
        if index in named:
            tensor.name = named[index].encode()
        elif tensor.name in taken:
            tensor.name += b"_inner"
    for number, subgraph in enumerate(model.subgraphs):
        subgraph.name = f"graph_{number}".encode() if number else b"main"
        for tensor in subgraph.tensors:
            tensor.name = _COUNTED.sub("", bytes(tensor.name).decode()).encode() if tensor.name else b""
    for index, name in named.items():
        graph.tensors[index].name = name.encode()
    model.signatureDefs = []
    return tflite_model.normalised(model)


def distinct(names: Sequence[str], taken: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names, those that occur before or in `taken` with a number appended."""
    used = set(taken)
    return tuple(_unused(name, used) for name in names)


def _unused(name: str, taken: set[str]) -> str:
    """Return the name, with a number appended if it is taken, and take it."""
    candidates = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(1)))
    found = next(one for one in candidates if one not in taken)
    taken.add(found)
    return found


def _reorder(entries: Any, names: Sequence[str]) -> None:
    by_name = {entry.name: entry for entry in entries}
    ordered = [type(entry).FromString(entry.SerializeToString()) for entry in map(by_name.__getitem__, names)]
    del entries[:]
    entries.extend(ordered)


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and those inside its nodes, outer ones first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _tensor_names(graph: Any) -> Iterator[str]:
    for one in _graphs(graph):
        for entry in one.input:
            yield entry.name
        for node in one.node:
            yield from node.input
            yield from node.output
        for tensor in one.initializer:
            yield tensor.name
        for entry in one.output:
            yield entry.name


def _apply(graph: Any, names: Mapping[str, str]) -> None:
    for one in _graphs(graph):
        for entry in (*one.input, *one.output, *one.value_info, *one.initializer):
            entry.name = names.get(entry.name, entry.name)
        for node in one.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]


def _clean_nodes(graph: Any, taken: set[str]) -> None:
    for number, one in enumerate(_graphs(graph)):
        one.name = f"graph_{number}"
        # Shapes of inner tensors can be inferred again, and name dimensions by counters.
        del one.value_info[:]
        for node in one.node:
            node.doc_string = ""
            node.name = _unused(_COUNTED.sub("", node.name) or node.op_type, taken)


def _clean_dimensions(graph: Any) -> None:
    for one in _graphs(graph):
        for entry in (*one.input, *one.output):
            for axis, dimension in enumerate(entry.type.tensor_type.shape.dim):
                if dimension.HasField("dim_param") or not dimension.HasField("dim_value"):
                    dimension.dim_param = BATCH if axis == 0 and one is graph else f"{entry.name}_{axis}"


def _sort_initializers(graph: Any) -> None:
    for one in _graphs(graph):
        _reorder(one.initializer, sorted(tensor.name for tensor in one.initializer))


def _position(graph: Any, indexes: Sequence[int], name: str) -> int:
    return next(int(index) for index in indexes if graph.tensors[index].name == name.encode())
