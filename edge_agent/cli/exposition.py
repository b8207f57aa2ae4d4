"""Reads Prometheus' text format 0.0.4, and what a histogram says of its quantiles. Pure.

Sources: https://prometheus.io/docs/instrumenting/exposition_formats/; for quantiles, `histogram_quantile` in
https://prometheus.io/docs/prometheus/latest/querying/functions/.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_SAMPLE: Final = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*")
_LABEL: Final = re.compile(r'\s*([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_ESCAPED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series."""

    labels: Mapping[str, str]
    value: float


Samples = Mapping[str, Sequence[Sample]]
"""By name, `_bucket`, `_sum` and `_count` of a histogram each as one of its own."""


def parse(text: str) -> Samples:
    """Return the samples of a page; raises ValueError for a line that is none."""
    found: dict[str, list[Sample]] = {}
    for line in text.split("\n"):
        if not line.strip() or line.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(line)
        if match is None:
            raise ValueError(f"this is no sample: {line[:80]!r}")
        name, labels, value = match.groups()
        found.setdefault(name, []).append(Sample(dict(_labels(labels or "")), float(value)))
    return found


def _labels(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(text):
        match = _LABEL.match(text, position)
        if match is None:
            raise ValueError(f"these are no labels: {text[:80]!r}")
        yield match[1], _ESCAPED.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], match[2])
        position = match.end()


def quantile(buckets: Sequence[tuple[float, float]], q: float) -> float | None:
    """Return the value below which a share `q`, in [0, 1], lies, interpolated linearly within its bucket.

    `buckets` are (upper bound, count of values up to it), ascending, the last bound infinite. None where
    nothing was counted; the largest finite bound where the value lies above it, since nothing more is known.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank = q * total
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and count > below:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, max(below, count)
    return low
