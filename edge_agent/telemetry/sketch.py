"""Quantiles of many numbers in little space, mergeable across processes and devices.

DDSketch: values are counted in buckets whose bounds grow by a constant factor, so that any quantile is known to
a relative accuracy, and adding up the counts of two sketches gives the sketch of all their values. Source:
Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB
2019.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

ACCURACY: Final = 0.01
"""Largest relative error of a quantile."""
SMALLEST: Final = 1e-9
"""Smaller values count as nought."""
LARGEST: Final = 1e9
"""Larger values count as this, which bounds the number of buckets to about 2,100."""

_GAMMA: Final = (1 + ACCURACY) / (1 - ACCURACY)
_PER_LOG: Final = 1 / math.log(_GAMMA)


class Sketch:
    """Counts of values by bucket; bucket i holds the values in (gamma^(i-1), gamma^i]."""

    __slots__ = ("buckets", "total", "zeros")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.zeros = 0
        self.total = 0.0
        """Sum of the values."""

    @property
    def count(self) -> int:
        """How many values were added."""
        return self.zeros + sum(self.buckets.values())

    def add(self, value: float) -> None:
        """Count a value; negative ones count as nought. Raises ValueError for NaN."""
        if value < SMALLEST:
            self.zeros += 1
            self.total += max(value, 0.0)
            return
        index = math.ceil(math.log(min(value, LARGEST)) * _PER_LOG)
        buckets = self.buckets
        buckets[index] = buckets.get(index, 0) + 1
        self.total += value

    def merge(self, other: "Sketch") -> None:
        """Count all of another sketch's values, too."""
        for index, count in other.buckets.items():
            self.buckets[index] = self.buckets.get(index, 0) + count
        self.zeros += other.zeros
        self.total += other.total

    def quantile(self, q: float) -> float:
        """Return the value below which a share `q`, in [0, 1], of the values lies; 0 if there are none."""
        rank = q * (self.count - 1)
        seen = self.zeros
        if seen > rank:
            return 0.0
        value = 0.0
        for index in sorted(self.buckets):
            seen += self.buckets[index]
            value = 2 * _GAMMA**index / (_GAMMA + 1)
            if seen > rank:
                break
        return value

    def to_builtins(self) -> dict[str, Any]:
        """Return the sketch as what JSON can hold."""
        return {
            "accuracy": ACCURACY,
            "total": self.total,
            "zeros": self.zeros,
            "buckets": [[index, count] for index, count in sorted(self.buckets.items())],
        }

    @classmethod
    def from_builtins(cls, content: Mapping[str, Any]) -> Self:
        """Return the sketch that was written so; an empty mapping is an empty sketch.

        Raises ValueError for what is no sketch, or one of another accuracy, which cannot be merged with ours.
        """
        sketch = cls()
        if not content:
            return sketch
        try:
            if content["accuracy"] != ACCURACY:
                raise ValueError(f"the sketch has another accuracy, {content['accuracy']}")
            sketch.total = float(content["total"])
            sketch.zeros = _count(content["zeros"])
            sketch.buckets = {int(index): _count(count) for index, count in content["buckets"]}
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no sketch: {error!r}") from error
        if not math.isfinite(sketch.total) or any(abs(index) > _LARGEST_INDEX for index in sketch.buckets):
            raise ValueError("the sketch has values that none can have")
        return sketch


_LARGEST_INDEX: Final = math.ceil(math.log(LARGEST) * _PER_LOG)


def merged(sketches: Iterable[Sketch]) -> Sketch:
    """Return the sketch of all values of several."""
    whole = Sketch()
    for sketch in sketches:
        whole.merge(sketch)
    return whole


def _count(value: Any) -> int:
    count = int(value)
    if count < 0:
        raise ValueError("the sketch has a negative count")
    return count
