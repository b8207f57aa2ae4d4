"""One form for ONNX models that differ only in inner names and in the order of independent nodes.

tf2onnx walks sets and numbers what it generates, so that two conversions of one model give other names, another
order, and other survivors of merged duplicates.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from converters.formats.names import unused
from converters.formats.onnx_walk import copied, graphs, inner

BATCH: Final = "batch"
"""What the free first dimension is called."""

_NAMED: Final = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "MatMul",
        "Gemm",
        "LSTM",
        "GRU",
        "RNN",
        "BatchNormalization",
        "LayerNormalization",
    }
)
"""Operators with weights, which are never merged and so keep the name that tells their layer."""
_COUNTED: Final = re.compile(r"__\d+")


def canonical(model: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Bring an `onnx.ModelProto` into its one form, with these inputs and outputs (old name to new) in order.

    Nodes come depth-first from the outputs; those without weights are called by their operator, and constants
    by their first user; constants that are equal become one.
    """
    clean(model)
    graph = model.graph
    _reorder(graph.input, list(inputs))
    _reorder(graph.output, list(outputs))
    _sort(graph)
    _Namer({**inputs, **outputs}).name(graph)
    for one in graphs(graph):
        _clean_dimensions(one, is_main=one is graph)
    used = {node.domain for one in graphs(graph) for node in one.node}
    unneeded = [entry for entry in model.opset_import if entry.domain not in used]
    for entry in unneeded:
        model.opset_import.remove(entry)


def clean(model: Any) -> None:
    """Drop metadata and comments, and put attributes in order, so that equal models give equal bytes.

    torch.onnx writes the exporting machine's paths into each node's metadata and attributes in random order;
    skl2onnx names graphs at random and imports a set of operators twice.
    """
    _strip(model)
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        versions[entry.domain] = max(entry.version, versions.get(entry.domain, 0))
    del model.opset_import[:]
    for domain in sorted(versions):
        model.opset_import.add(domain=domain, version=versions[domain])
    for function in model.functions:
        _strip(function)
        _clean_nodes(function.node)
    for graph in graphs(model.graph):
        _strip(graph)
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            _strip(value)
        _clean_nodes(graph.node)


def _clean_nodes(nodes: Any) -> None:
    for node in nodes:
        _strip(node)
        if not node.domain:
            # An empty one that was set is one more field than one that was not.
            node.ClearField("domain")
        attributes = sorted(map(copied, node.attribute), key=lambda attribute: str(attribute.name))
        for attribute in attributes:
            attribute.ClearField("doc_string")
        del node.attribute[:]
        node.attribute.extend(attributes)


def _strip(message: Any) -> None:
    message.ClearField("doc_string")
    del message.metadata_props[:]


class _Namer:
    """Gives new names to the tensors and nodes of sorted graphs; no inner name hides an outer one."""

    def __init__(self, fixed: Mapping[str, str]) -> None:
        self._fixed = fixed
        self._tensors = set(fixed.values())
        self._nodes: set[str] = set()
        self._graphs = itertools.count()

    def name(self, graph: Any, outer: Mapping[str, str] | None = None) -> None:
        """Name a graph's tensors, and those of the graphs inside; `outer` maps what they may refer to."""
        names = dict(self._fixed if outer is None else outer)
        number = next(self._graphs)
        if outer is not None:
            for position, entry in enumerate(graph.input):
                names[entry.name] = unused(f"graph_{number}/input_{position}", self._tensors)
        constants = {tensor.name: _content(tensor) for tensor in graph.initializer}
        first: dict[bytes, str] = {}
        for node in graph.node:
            node.name = unused(_stem(node), self._nodes)
            for position, name in enumerate(_used(node)):
                if name in constants:
                    one = first.get(constants[name])
                    names[name] = one or unused(f"{node.name}/constant_{position}", self._tensors)
                    first[constants[name]] = names[name]
            self._name_outputs(node, names, is_main=outer is None)
        for entry in graph.output:
            # A constant that is an output of an inner graph has no user there.
            if entry.name in constants and entry.name not in names:
                names[entry.name] = unused(f"graph_{number}/constant", self._tensors)
        for node in graph.node:
            for held in inner(node):
                self.name(held, names)
        _apply(graph, names)
        graph.name = f"graph_{number}"

    def _name_outputs(self, node: Any, names: dict[str, str], *, is_main: bool) -> None:
        for position, name in enumerate(node.output):
            if name and not (is_main and name in self._fixed):
                names[name] = unused(f"{node.name}:{position}", self._tensors)


def _apply(graph: Any, names: Mapping[str, str]) -> None:
    from onnx import numpy_helper

    for node in graph.node:
        node.input[:] = [names[name] if name else "" for name in node.input]
        node.output[:] = [names[name] if name else "" for name in node.output]
    for entry in (*graph.input, *graph.output):
        entry.name = names[entry.name]
    kept: dict[str, Any] = {}
    for tensor in graph.initializer:
        if tensor.name in names:
            kept[names[tensor.name]] = numpy_helper.from_array(
                numpy_helper.to_array(tensor), names[tensor.name]
            )
    del graph.initializer[:]
    graph.initializer.extend(kept[name] for name in sorted(kept))
    # Shapes of inner tensors can be inferred again.
    del graph.value_info[:]


def _sort(graph: Any) -> None:
    """Put a graph's nodes, and those of the graphs inside, in depth-first order from the outputs."""
    for node in graph.node:
        for held in inner(node):
            _settle_identities(held)
            _sort(held)
    nodes = [copied(node) for node in graph.node]
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [[makers[name] for name in _used(node) if name in makers] for node in nodes]
    starts = [makers[entry.name] for entry in graph.output if entry.name in makers]
    order = _depth_first(starts, needs)
    del graph.node[:]
    graph.node.extend(nodes[index] for index in order)


def _settle_identities(graph: Any) -> None:
    """Let an inner graph's first output of a value be the value itself, and later ones its copies.

    Where two outputs are one value, tf2onnx gives either of them the copy.
    """
    made = {name for node in graph.node if node.op_type != "Identity" for name in node.output}
    copies = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in made
    }
    kept = [copied(node) for node in graph.node if node.output[0] not in copies]
    del graph.node[:]
    graph.node.extend(kept)
    for one in graphs(graph):
        for node in one.node:
            node.input[:] = [copies.get(name, name) for name in node.input]
        if one is not graph:
            for entry in one.output:
                entry.name = copies.get(entry.name, entry.name)
    taken: set[str] = set()
    for position, entry in enumerate(graph.output):
        value = copies.get(entry.name, entry.name)
        entry.name = value
        if value in taken:
            entry.name = f"{value}/copy_{position}"
            graph.node.add(op_type="Identity", input=[value], output=[entry.name])
        taken.add(value)


def _depth_first(starts: Sequence[int], needs: Sequence[Sequence[int]]) -> list[int]:
    """Return what can be reached, each after what it needs."""
    order: dict[int, None] = {}
    pending = list(reversed(starts))
    while pending:
        index = pending[-1]
        missing = [one for one in needs[index] if one not in order]
        if index in order or not missing:
            order[index] = None
            pending.pop()
        else:
            pending.extend(reversed(missing))
    return list(order)


def _used(node: Any) -> list[str]:
    """Return the tensors that a node takes, also those that graphs inside it take from outside."""
    return [*filter(None, node.input), *(name for held in inner(node) for name in _free(held))]


def _free(graph: Any) -> list[str]:
    own = {entry.name for entry in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    wanted = [name for node in graph.node for name in _used(node)] + [entry.name for entry in graph.output]
    return list(dict.fromkeys(name for name in wanted if name not in own))


def _stem(node: Any) -> str:
    return _COUNTED.sub("", node.name) or str(node.op_type) if node.op_type in _NAMED else str(node.op_type)


def _content(tensor: Any) -> bytes:
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor)
    return repr((tensor.data_type, array.shape)).encode() + bytes(array.tobytes())


def _reorder(entries: Any, names: Sequence[str]) -> None:
    by_name = {entry.name: copied(entry) for entry in entries}
    del entries[:]
    entries.extend(by_name[name] for name in names)


def _clean_dimensions(graph: Any, *, is_main: bool) -> None:
    for entry in (*graph.input, *graph.output):
        for axis, dimension in enumerate(entry.type.tensor_type.shape.dim):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = BATCH if axis == 0 and is_main else f"{entry.name}_{axis}"
