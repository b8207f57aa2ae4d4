"""Ways through an `onnx.ModelProto`: its graphs, those inside nodes, and copies of what is in them."""

from collections.abc import Iterator
from typing import Any


def graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and those inside its nodes, which see its tensors by name; outer ones first."""
    pending = [graph]
    while pending:
        one = pending.pop()
        yield one
        pending += [found for node in one.node for found in inner(node)]


def inner(node: Any) -> list[Any]:
    """Return the graphs that a node holds."""
    found: list[Any] = []
    for attribute in node.attribute:
        found += [attribute.g] if attribute.HasField("g") else []
        found += attribute.graphs
    return found


def copied(message: Any) -> Any:
    """Return a copy of a part of a model, which stays when the part is taken out."""
    return type(message).FromString(message.SerializeToString(deterministic=True))
