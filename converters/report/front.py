"""The Pareto front: what nothing else beats in both cost and quality. Pure."""

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]], *, higher_is_better: bool = True) -> list[int]:
    """Return the positions of the points (cost, quality) that no other beats, the cheapest first.

    A point is beaten by one that costs no more and is no worse, and is better in one of them; of equal points
    the first counts.
    """
    sign = 1.0 if higher_is_better else -1.0
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -sign * points[index][1], index))
    kept: list[int] = []
    for index in order:
        if not kept or sign * points[index][1] > sign * points[kept[-1]][1]:
            kept.append(index)
    return kept
