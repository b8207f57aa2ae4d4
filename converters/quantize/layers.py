"""Layers by name: which of a model's operators a pattern means, and what stays in float together. Pure."""

import fnmatch
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from converters.errors import ConversionError

PROCESSING: Final = ("preprocess/", "postprocess/")
"""Nodes whose names begin so are no part of the trained model and always stay in float."""

_LISTED: Final = 8


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a graph, with the names of its tensors; constants are left out of the inputs."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    computing: bool
    """A layer: it has weights, or multiplies matrices."""


def layers(operators: Iterable[Operator]) -> tuple[str, ...]:
    """Return the names of the layers, in the graph's order."""
    return tuple(one.name for one in operators if one.computing and not one.name.startswith(PROCESSING))


def in_float(operators: Sequence[Operator], patterns: Sequence[str]) -> frozenset[str]:
    """Return the names of the operators that stay in float: those that match, with their followers.

    What follows a layer alone (its bias, activation, pooling) stays in float with it, since a quantized
    follower would need the layer's answer quantized. Raises ConversionError for a pattern that matches nothing.
    """
    chosen = {one.name for one in operators if one.name.startswith(PROCESSING)}
    for pattern in patterns:
        matching = _matching(operators, pattern)
        if not matching:
            raise ConversionError(_unknown(operators, pattern))
        chosen |= matching
    return frozenset(chosen | _followers(operators, chosen))


def group(operators: Sequence[Operator], layer: str) -> frozenset[str]:
    """Return a layer's name with those of its followers."""
    return frozenset({layer} | _followers(operators, {layer}))


def _matching(operators: Sequence[Operator], pattern: str) -> set[str]:
    exact = {one.name for one in operators if one.name == pattern}
    # A name may itself look like a pattern: `dense[0]`.
    return exact or {one.name for one in operators if fnmatch.fnmatchcase(one.name, pattern)}


def _followers(operators: Sequence[Operator], chosen: Iterable[str]) -> set[str]:
    users = Counter(name for one in operators for name in set(one.inputs))
    wanted = set(chosen)
    starts = [one for one in operators if one.name in wanted and one.computing]
    tensors = {name for one in starts for name in one.outputs}
    found: set[str] = set()
    for one in operators:
        if not one.computing and any(name in tensors and users[name] == 1 for name in one.inputs):
            found.add(one.name)
            tensors |= set(one.outputs)
    return found


def _unknown(operators: Sequence[Operator], pattern: str) -> str:
    names = layers(operators)
    listed = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    return (
        f"'{pattern}' in exclude matches no layer of the model; it has: {listed or 'none that is quantized'}."
    )
