"""Takes out of ONNX models what exporters write beside the computation: stack traces, paths, random names."""

import re
from collections.abc import Iterator
from typing import Any


def clean(model: Any) -> None:
    """Drop metadata and comments, and put attributes in order, so that equal models give equal bytes.

    torch.onnx writes the exporting machine's paths into each node's metadata and attributes in random order;
    skl2onnx names graphs at random and imports a set of operators twice.
    """
    del model.metadata_props[:]
    model.doc_string = ""
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        versions[entry.domain] = max(entry.version, versions.get(entry.domain, 0))
    del model.opset_import[:]
    for domain in sorted(versions):
        model.opset_import.add(domain=domain, version=versions[domain])
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        _clean_nodes(function.node)
    for graph in _graphs(model.graph):
        graph.doc_string = ""
        del graph.metadata_props[:]
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.doc_string = ""
            del value.metadata_props[:]
        _clean_nodes(graph.node)


def rename_dimension(model: Any, old: str, new: str) -> None:
    """Give a free dimension another name, also within expressions."""
    word = re.compile(rf"\b{re.escape(old)}\b")
    for graph in _graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_param = word.sub(new, dim.dim_param)


def rename_values(model: Any, names: dict[str, str]) -> None:
    """Give inputs, outputs and other values of the main graph and its subgraphs other names."""
    for graph in _graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = names.get(value.name, value.name)
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]


def set_opset(model: Any, version: int) -> None:
    """Set the version of the default operator set, for models whose operators mean the same there."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = version


def _clean_nodes(nodes: Any) -> None:
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        ordered = sorted(node.attribute, key=lambda attribute: str(attribute.name))
        for attribute in ordered:
            attribute.doc_string = ""
        copies = [type(attribute).FromString(attribute.SerializeToString()) for attribute in ordered]
        del node.attribute[:]
        node.attribute.extend(copies)


def _graphs(graph: Any) -> Iterator[Any]:
    """Walk a graph and its subgraphs."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)
