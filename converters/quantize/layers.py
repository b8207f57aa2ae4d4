"""Layers by name: which of a model's operators a pattern means, and what stays in float together. Pure."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from converters.errors import ConversionError

PROCESSING: Final = ("preprocess/", "postprocess/")
"""Operators whose names begin so are no part of the trained model and always stay in float."""

_LISTED: Final = 8


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a graph, with the names of its tensors; constants may be left out of the inputs."""

    name: str
    """Unique within the graph."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    computing: bool
    """A layer: it has weights, or multiplies matrices."""


def layers(operators: Sequence[Operator]) -> tuple[str, ...]:
    """Return the names of the layers, in the graph's order."""
    return tuple(one.name for one in operators if _is_layer(one))


def groups(operators: Sequence[Operator]) -> Mapping[str, frozenset[str]]:
    """Return, by layer, the names of its operators: each belongs to the latest layer before it.

    What comes before the first layer belongs to that one. A layer's bias, activation and pooling stay in float
    with it, since quantized ones would need its answer quantized.
    """
    order = {name: index for index, name in enumerate(layers(operators))}
    members: dict[str, set[str]] = {name: {name} for name in order}
    first = next(iter(order), "")
    owner: dict[str, str] = {}
    for one in operators:
        known = [owner[name] for name in one.inputs if name in owner]
        latest = max(known, key=order.__getitem__, default=first)
        own = one.name if _is_layer(one) else latest
        if own:
            members[own].add(one.name)
            owner |= dict.fromkeys(one.outputs, own)
    return {name: frozenset(found) for name, found in members.items()}


def in_float(operators: Sequence[Operator], patterns: Sequence[str]) -> frozenset[str]:
    """Return the names of the operators that stay in float: those that match, a layer with all of its group.

    Raises ConversionError for a pattern that matches nothing.
    """
    chosen = {one.name for one in operators if one.name.startswith(PROCESSING)}
    grouped = groups(operators)
    for pattern in patterns:
        matching = _matching(operators, pattern)
        if not matching:
            raise ConversionError(_unknown(operators, pattern))
        for name in matching:
            chosen |= grouped.get(name, {name})
    return frozenset(chosen)


def _is_layer(operator: Operator) -> bool:
    return operator.computing and not operator.name.startswith(PROCESSING)


def _matching(operators: Sequence[Operator], pattern: str) -> set[str]:
    exact = {one.name for one in operators if one.name == pattern}
    # A name may itself look like a pattern: `dense[0]`.
    return exact or {one.name for one in operators if fnmatch.fnmatchcase(one.name, pattern)}


def _unknown(operators: Sequence[Operator], pattern: str) -> str:
    names = layers(operators)
    listed = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    return f"'{pattern}' in exclude matches no layer of the model; it has: {listed or 'none to quantize'}."
