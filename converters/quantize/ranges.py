"""The range of an activation, from what calibration showed of it. Pure.

Two passes over the samples: the first finds the extremes, the second counts into bins of equal width. So memory
does not grow with the samples, and their order does not matter. ONNX Runtime's own histogram collectors keep
every sample's activations, and its entropy method has as many bins as quantized values by default, so it
always returns the extremes (onnxruntime 1.32, `calibrate.py`); litert-quantizer has extremes alone, and moving
averages of those by default.

Entropy: Migacz, "8-bit inference with TensorRT" (2017),
https://on-demand.gputechconf.com/gtc/2017/presentation/s7310-8-bit-inference-with-tensorrt.pdf.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Array
from converters.errors import ConversionError
from converters.quantize.settings import QuantizeSettings
from converters.workers.messages import Shown

BINS: Final = 4096
"""Of a histogram, from the largest magnitude below zero to the same above."""
LEVELS: Final = 128
"""Magnitudes that int8 tells apart."""
_ENTROPY_STEP: Final = 8
"""Bins between the thresholds that the entropy method compares."""

Activations = Callable[[], Iterable[Mapping[str, Array]]]
"""Runs the model on every sample, and yields its float activations by tensor name."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """What calibration showed of one tensor."""

    minimum: float
    maximum: float
    counts: NDArray[np.int64]
    """Values in `BINS` bins from `-limit` to `limit`."""

    @property
    def limit(self) -> float:
        """The largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def deviation(self) -> float:
        """The standard deviation, to the width of a bin."""
        centres = (np.arange(BINS) + 0.5) * (2 * self.limit / BINS) - self.limit
        total = max(1, int(self.counts.sum()))
        mean = float(centres @ self.counts) / total
        return math.sqrt(max(0.0, float(((centres - mean) ** 2) @ self.counts) / total))


def observe(activations: Activations, *, with_counts: bool = True) -> dict[str, Histogram]:
    """Return a histogram of each tensor that has finite values throughout, in the order of appearance.

    Without counts the second pass is left out. Raises ConversionError when a tensor shows NaN; one that shows
    infinity has no range and is left out.
    """
    extremes: dict[str, tuple[float, float]] = {}
    for number, tensors in enumerate(activations()):
        for name, array in tensors.items():
            if array.size:
                low, high = float(array.min()), float(array.max())
                _check_numbers(name, number, low, high)
                before = extremes.get(name, (low, high))
                extremes[name] = min(low, before[0]), max(high, before[1])
    finite = {name: ends for name, ends in extremes.items() if all(map(math.isfinite, ends))}
    counts = {name: np.zeros(BINS, np.int64) for name in finite}
    for tensors in activations() if with_counts else ():
        for name in tensors.keys() & finite.keys():
            counts[name] += _counted(tensors[name], finite[name])
    return {name: Histogram(*ends, counts[name]) for name, ends in finite.items()}


def chosen(histogram: Histogram, settings: QuantizeSettings) -> tuple[float, float]:
    """Return the lowest and highest value that quantization shall tell apart."""
    if settings.calibration == "minmax" or histogram.limit == 0:
        return histogram.minimum, histogram.maximum
    magnitudes = histogram.counts[BINS // 2 :] + histogram.counts[: BINS // 2][::-1]
    if settings.calibration == "percentile":
        bins = _percentile_bins(magnitudes, settings.percentile)
    else:
        bins = _entropy_bins(magnitudes)
    threshold = histogram.limit * bins / magnitudes.size
    return max(histogram.minimum, -threshold), min(histogram.maximum, threshold)


def telling(histograms: Mapping[str, Histogram], ends: Iterable[str], count: int) -> list[str]:
    """Return at most this many names: the model's inputs and outputs, then the widest for their deviation.

    A range that is wide for its deviation spends most of its integers on few values.
    """
    first = [name for name in dict.fromkeys(ends) if name in histograms]

    def strain(name: str) -> float:
        found = histograms[name]
        return (found.maximum - found.minimum) / found.deviation if found.deviation else 0.0

    others = sorted(histograms.keys() - set(first), key=lambda name: (-strain(name), name))
    return [*first, *others][:count]


def shown(name: str, histogram: Histogram, settings: QuantizeSettings, bins: int = 64) -> Shown:
    """Return a tensor for the report, with about this many bins between its extremes."""
    low, high = chosen(histogram, settings)
    limit = histogram.limit or 1.0
    filled = np.flatnonzero(histogram.counts)
    first, last = int(filled[0]), int(filled[-1]) + 1
    step = math.ceil((last - first) / bins)
    starts = np.arange(first, last, step)
    counts = np.add.reduceat(histogram.counts, starts)
    edges = [float(start * (2 * limit / BINS) - limit) for start in (*starts, starts[-1] + step)]
    ends = histogram.minimum, histogram.maximum
    return Shown(name, *ends, low, high, tuple(int(count) for count in counts), tuple(edges))


def _counted(array: Array, ends: tuple[float, float]) -> NDArray[np.int64]:
    limit = max(abs(end) for end in ends)
    if limit == 0:
        counts = np.zeros(BINS, np.int64)
        counts[BINS // 2] = array.size
        return counts
    positions = (array.astype(np.float64).ravel() / limit + 1) * (BINS / 2)
    clipped = np.clip(positions, 0, BINS - 1).astype(np.int64)
    return np.bincount(clipped, minlength=BINS).astype(np.int64)


def _percentile_bins(magnitudes: NDArray[np.int64], percentile: float) -> int:
    """Return how many bins, from zero on, hold this share of the values."""
    summed = np.cumsum(magnitudes)
    return 1 + int(np.searchsorted(summed, summed[-1] * percentile / 100))


def _entropy_bins(magnitudes: NDArray[np.int64]) -> int:
    """Return how many bins lose the least information when 128 levels stand for them."""
    # Zero is exact whatever the range, and after a ReLU it would outweigh all else.
    counts = magnitudes.astype(np.float64)
    counts[0] = 0
    if not counts.any():
        return counts.size
    candidates = range(LEVELS, counts.size + 1, _ENTROPY_STEP)
    return min(candidates, key=lambda bins: _divergence(counts, bins))


def _divergence(counts: NDArray[np.float64], bins: int) -> float:
    """Return the Kullback-Leibler divergence, in nats, of the clipped values from their quantized form."""
    inside = counts[:bins]
    clipped = inside.copy()
    clipped[-1] += counts[bins:].sum()
    starts = (np.arange(LEVELS) * bins) // LEVELS
    sizes = np.diff(np.append(starts, bins))
    filled = inside > 0
    sums = np.add.reduceat(inside, starts)
    users = np.add.reduceat(filled.astype(np.int64), starts)
    levels = np.repeat(sums / np.maximum(users, 1), sizes) * filled
    if not levels.any():
        return math.inf
    # Where only clipped values lie, the quantized form has nothing: a small share keeps the logarithm finite.
    wanted = clipped / clipped.sum()
    given = np.maximum(levels / levels.sum(), 1e-9)
    present = wanted > 0
    return float(np.sum(wanted[present] * np.log(wanted[present] / given[present])))


def _check_numbers(name: str, number: int, low: float, high: float) -> None:
    if math.isnan(low) or math.isnan(high):
        raise ConversionError(
            f"Calibration sample {number} makes tensor '{name}' NaN, so no range can be found; take that "
            "sample out, or check the model with it."
        )
