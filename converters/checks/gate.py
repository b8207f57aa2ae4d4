"""Which variants are good enough to be packaged. Pure."""

from dataclasses import dataclass
from typing import Annotated, Final

from annotated_types import Ge, Le

DEFAULT_MAX_DROP: Final = 1.0
"""Points of the metric, agreement without labels. One point is what post-training int8 commonly costs a healthy
CNN, twice the half point that a good one loses, and two of the 200 generated samples."""

SLACK: Final = 1e-9
"""Shares are counts over counts: a drop of exactly the limit must not fail on the last bit."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits of a variant; None sets no limit."""

    max_drop: Annotated[float, Ge(0)] = DEFAULT_MAX_DROP
    """Points of the metric that may be lost against the float model; `checks.metrics` defines a point."""
    max_size_bytes: Annotated[int, Ge(1)] | None = None
    """Largest file, before compression."""
    max_latency_ms: Annotated[float, Ge(0)] | None = None
    """Slowest median run on this host; what it cannot time has no such limit."""
    min_agreement: Annotated[float, Ge(0), Le(1)] | None = None
    """Least share of answers, 0 to 1, that must be the float model's."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one variant."""

    size_bytes: int
    agreement: float
    """A share, 0 to 1."""
    latency_ms: float | None = None
    """None where this host says nothing about it: then no limit applies."""
    metric: str = "agreement"
    lost: float | None = None
    """Points of the metric; None where that is agreement."""

    @property
    def drop(self) -> float:
        """Points lost: of the metric, else of agreement."""
        return self.lost if self.lost is not None else 100 * (1 - self.agreement)


def refusal(gate: Gate, measured: Measured) -> str | None:
    """Say why a variant is left out, or None if it passes."""
    if not measured.drop <= gate.max_drop + SLACK:
        return f"it loses {measured.drop:.2f} points of {measured.metric}, {gate.max_drop:g} allowed"
    if gate.min_agreement is not None and measured.agreement < gate.min_agreement - SLACK:
        return (
            f"it agrees to {100 * measured.agreement:.2f} %, at least {100 * gate.min_agreement:g} % asked for"
        )
    if gate.max_size_bytes is not None and measured.size_bytes > gate.max_size_bytes:
        return f"it has {measured.size_bytes:,} bytes, {gate.max_size_bytes:,} allowed"
    latency = measured.latency_ms
    if gate.max_latency_ms is not None and latency is not None and latency > gate.max_latency_ms:
        return f"a run takes {latency:.2f} ms, {gate.max_latency_ms:g} allowed"
    return None
