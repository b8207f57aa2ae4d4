"""The Pareto front: what nothing else beats in quality, size and latency at once. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """What a result is compared by."""

    quality: float
    """Accuracy or agreement, 0 to 1; more is better."""
    size_bytes: int
    latency_ms: float


def dominates(one: Point, other: Point) -> bool:
    """Say whether a point is nowhere worse than another and somewhere better."""
    nowhere_worse = (
        one.quality >= other.quality
        and one.size_bytes <= other.size_bytes
        and one.latency_ms <= other.latency_ms
    )
    return nowhere_worse and one != other


def front(points: Sequence[Point]) -> list[int]:
    """Return the indexes of the points that no other dominates, in their order; equal points are all on it."""
    return [index for index, point in enumerate(points) if not any(dominates(rival, point) for rival in points)]
