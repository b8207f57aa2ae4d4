"""Which tensors and layers of two models belong together. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from converters import arrays
from converters.errors import ConversionError
from converters.formats.layers import LayerSize
from converters.inspection.models import Inspected
from edge_agent.documents.tensors import TensorSpec

_ADDED: Final = re.compile(r"((_MatMul)?(_output)?_quant(ized)?|_QuantizeLinear_(Input|Output))$")
"""What quantizers add to the name of a layer."""


@dataclass(frozen=True, slots=True)
class LayerPair:
    """A layer in both models, or in one of them; what the other lacks is None."""

    name: str
    operator: str
    a_bytes: int | None
    b_bytes: int | None
    a_parameters: int | None
    b_parameters: int | None

    @property
    def change_bytes(self) -> int:
        """Bytes that B has more than A."""
        return (self.b_bytes or 0) - (self.a_bytes or 0)


def match_layers(a: Sequence[LayerSize], b: Sequence[LayerSize]) -> list[LayerPair]:
    """Pair layers by name, then the others by their number of parameters in order; largest changes first."""
    ours, theirs = _by_plain_name(a), _by_plain_name(b)
    pairs: list[tuple[LayerSize | None, LayerSize | None]] = [
        (layer, theirs[name]) for name, layer in ours.items() if name in theirs
    ]
    left = [layer for name, layer in theirs.items() if name not in ours]
    for layer in (layer for name, layer in ours.items() if name not in theirs):
        partner = next((other for other in left if other.parameters == layer.parameters), None)
        left = [other for other in left if other is not partner]
        pairs.append((layer, partner))
    pairs += [(None, layer) for layer in left]
    return sorted(
        (_pair(one, other) for one, other in pairs), key=lambda pair: (-abs(pair.change_bytes), pair.name)
    )


def match_tensors(kind: str, a: Sequence[TensorSpec], b: Sequence[TensorSpec]) -> dict[str, str]:
    """Return, by A's names, what B calls its tensors: the same, or where there is one only, whatever.

    Raises ConversionError, in a sentence that says what differs, when datatypes or shapes do not fit.
    """
    refused = "They were not run on the same samples, since"
    if len(a) != len(b):
        raise ConversionError(f"{refused} A has {_count(len(a), kind)} and B {_count(len(b), kind)}.")
    theirs = {spec.name: spec for spec in b}
    if len(a) == 1:
        theirs = {a[0].name: b[0]}
    for spec in a:
        other = theirs.get(spec.name)
        if other is None:
            raise ConversionError(f"{refused} B has no {kind} '{spec.name}'.")
        if not fits(spec, other):
            raise ConversionError(
                f"{refused} the {kind} '{spec.name}' is {described(spec)} in A and {described(other)} in B."
            )
    return {spec.name: theirs[spec.name].name for spec in a}


def merged(a: Sequence[TensorSpec], b: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return A's tensors with the dimensions that only B knows; both match as by `match_tensors`."""
    by_name = {spec.name: spec for spec in b} if len(a) > 1 else {a[0].name: b[0]}
    return tuple(
        TensorSpec(
            spec.name,
            spec.datatype,
            tuple(
                other if size == -1 else size
                for size, other in zip(spec.shape, by_name[spec.name].shape, strict=True)
            ),
        )
        for spec in a
    )


def signature_differences(a: Inspected, b: Inspected) -> list[str]:
    """Return what differs in inputs and outputs, a sentence each."""
    found = []
    for kind, ours, theirs in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        if not ours or not theirs:
            continue
        one, other = ({spec.name: spec for spec in side} for side in (ours, theirs))
        for name in dict.fromkeys((*one, *other)):
            if name not in other:
                found.append(f"Only A has the {kind} '{name}', {described(one[name])}.")
            elif name not in one:
                found.append(f"Only B has the {kind} '{name}', {described(other[name])}.")
            elif one[name] != other[name]:
                found.append(
                    f"The {kind} '{name}' is {described(one[name])} in A and {described(other[name])} in B."
                )
    return found


def fits(a: TensorSpec, b: TensorSpec) -> bool:
    """Say whether an array can be a value of both tensors."""
    return (
        a.datatype == b.datatype
        and len(a.shape) == len(b.shape)
        and all(-1 in pair or pair[0] == pair[1] for pair in zip(a.shape, b.shape, strict=True))
    )


def described(spec: TensorSpec) -> str:
    """Return datatype and shape for a person: `FP32 [any, 3]`."""
    return f"{spec.datatype} {arrays.shown(spec.shape)}"


def plain_name(name: str) -> str:
    """Return a layer's name without what quantizers add to it."""
    return _ADDED.sub("", name)


def _by_plain_name(layers: Sequence[LayerSize]) -> dict[str, LayerSize]:
    """Put together what a quantizer made of one layer: a Gemm becomes MatMulInteger and Add."""
    found: dict[str, LayerSize] = {}
    for layer in layers:
        name = plain_name(layer.name)
        other = found.get(name)
        if other is not None:
            largest = max(layer, other, key=lambda one: one.weight_bytes)
            layer = LayerSize(
                name,
                largest.operator,
                layer.weight_bytes + other.weight_bytes,
                layer.parameters + other.parameters,
            )
        found[name] = layer
    return found


def _pair(one: LayerSize | None, other: LayerSize | None) -> LayerPair:
    named = one or other
    assert named is not None
    return LayerPair(
        named.name,
        named.operator,
        one.weight_bytes if one else None,
        other.weight_bytes if other else None,
        one.parameters if one else None,
        other.parameters if other else None,
    )


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}{'' if number == 1 else 's'}"
