"""The Pareto front: what nothing else beats in everything that counts at once. Pure."""

from collections.abc import Sequence

Point = tuple[float, ...]
"""What a result costs; less of each is better."""


def front(points: Sequence[Point]) -> list[int]:
    """Return the positions of the points that no other beats, in their order; equal points are all on it."""
    return [index for index, point in enumerate(points) if not any(beats(other, point) for other in points)]


def beats(one: Point, other: Point) -> bool:
    """Say whether a point is nowhere worse than another and somewhere better."""
    return one != other and all(own <= its for own, its in zip(one, other, strict=True))
