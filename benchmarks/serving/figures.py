"""Figures from samples."""

import statistics
from collections.abc import Sequence


def p50(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def sums_of(values: Sequence[float], count: int) -> list[float]:
    """Return the sum of every `count` consecutive values."""
    return [sum(values[start : start + count]) for start in range(len(values) - count + 1)]


def growth(values: Sequence[float]) -> float:
    """Return by how much the last quarter's median exceeds that of the second quarter.

    The first quarter is left out: caches fill and heaps settle in it.
    """
    quarter = len(values) // 4
    if not quarter:
        raise ValueError(f"{len(values)} samples are too few to tell growth from.")
    return p50(values[-quarter:]) - p50(values[quarter : 2 * quarter])
