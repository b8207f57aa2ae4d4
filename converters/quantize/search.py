"""The search for the layers that cost accuracy: they stay in float until the drop fits."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.arrays import Sample
from converters.errors import ConversionError, WorkerError
from converters.formats.sources import SourceModel
from converters.quantize import variants
from converters.quantize.settings import QuantizeSettings
from converters.quantize.variants import Candidate
from converters.terms import Advanced, unheard
from converters.workers import messages
from converters.workers.trials import Bench
from edge_agent.documents.manifest import Precision


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What a layer costs when it alone is quantized."""

    layer: str
    loss: float
    """Squared error of the answers as a share of their variance."""


@dataclass(frozen=True, slots=True)
class Step:
    """One set of layers that was tried in float."""

    excluded: tuple[str, ...]
    drop: float


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a search."""

    excluded: tuple[str, ...]
    drop: float
    fits: bool
    """Whether the drop is within what was asked for; else this is the best that was seen."""
    trail: tuple[Step, ...]
    """Everything that was evaluated, in order; the first step is the plain variant."""


def find_exclusions(
    ranked: Sequence[tuple[str, float]],
    drop_of: Callable[[tuple[str, ...]], float],
    max_drop: float,
    limit: int,
    advanced: Advanced = unheard,
) -> Found:
    """Find a small set of layers whose exclusion brings the drop to `max_drop` or below.

    `ranked` has the layers with what they cost, in any order. The most costly 1, 2, 4, … are tried until the
    drop fits, the number is bisected between the last that failed and the first that fitted, then each layer
    that is not needed is taken back, the least costly first. About `2 log2(limit) + limit` evaluations at most.
    What is returned was evaluated itself, so the drop need not fall with every layer.
    """
    order = [name for name, _ in sorted(ranked, key=lambda entry: -entry[1])][:limit]
    trail = _Trail(drop_of, max_drop, 2 + 2 * len(order).bit_length() + len(order), advanced)
    count = _fitting_count(order, trail)
    if count is not None:
        trail.minimise(tuple(order[:count]))
    advanced(1.0)
    return trail.found()


def rank(
    bench: Bench,
    source: SourceModel,
    precision: Precision,
    calibration: Sequence[Sample],
    folder: Path,
    settings: QuantizeSettings,
    advanced: Advanced = unheard,
) -> list[Sensitivity]:
    """Return the layers, most costly first, each measured in a worker with that one alone quantized.

    Raises ConversionError or WorkerError.
    """
    method, _ = variants.methods(source, precision, settings)[0]
    data = bench.samples_file(calibration).absolute()
    message = messages.Rank(
        method=method,
        source=str(source.path.absolute()),
        data=str(data),
        ranges=str(variants.ranges_file(source, data, folder.absolute(), settings)),
        settings=settings,
    )
    losses = bench.rank(message, advanced)
    kept = [Sensitivity(layer, loss) for layer, loss in losses.items()]
    return sorted(kept, key=lambda one: -one.loss)


def search(
    bench: Bench,
    source: SourceModel,
    precision: Precision,
    calibration: Sequence[Sample],
    folder: Path,
    settings: QuantizeSettings,
    drop_of: Callable[[Sequence[Candidate]], float],
    max_drop: float,
    advanced: Advanced = unheard,
) -> tuple[Found, list[Sensitivity]]:
    """Rank the layers and find those that stay in float, besides what `settings.exclude` names already.

    `drop_of` evaluates the files that were made, one for each architecture. With the outcome,
    `variants.make(..., dataclasses.replace(settings, exclude=settings.exclude + found.excluded))` makes the
    same files again.
    """
    ranked = rank(bench, source, precision, calibration, folder, settings, lambda share: advanced(share / 2))

    def evaluate(excluded: tuple[str, ...]) -> float:
        tried = dataclasses.replace(settings, exclude=settings.exclude + excluded)
        try:
            return drop_of(variants.make(bench, source, precision, calibration, folder, tried))
        except (ConversionError, WorkerError):
            # Nothing is left to quantize, the ends cannot be integers any more, or it crashes.
            return math.inf

    found = find_exclusions(
        # Those that cost nothing are in float already.
        [(one.layer, one.loss) for one in ranked if one.loss > 0],
        evaluate,
        max_drop,
        settings.search_limit,
        lambda share: advanced(0.5 + share / 2),
    )
    return found, ranked


class _Trail:
    """Evaluates sets of layers once each and remembers them in order."""

    def __init__(
        self, drop_of: Callable[[tuple[str, ...]], float], max_drop: float, expected: int, advanced: Advanced
    ) -> None:
        self._drop_of = drop_of
        self._max_drop = max_drop
        self._expected = expected
        self._advanced = advanced
        self._steps: dict[tuple[str, ...], float] = {}

    def fits(self, excluded: tuple[str, ...]) -> bool:
        """Say whether the drop is small enough with these in float; NaN is not."""
        if excluded not in self._steps:
            self._steps[excluded] = self._drop_of(excluded)
            self._advanced(min(1.0, len(self._steps) / self._expected))
        return self._steps[excluded] <= self._max_drop

    def minimise(self, excluded: tuple[str, ...]) -> None:
        """Take back each layer that is not needed, the last first."""
        for name in reversed(excluded):
            fewer = tuple(other for other in excluded if other != name)
            if self.fits(fewer):
                excluded = fewer

    def found(self) -> Found:
        """Return the fewest layers that fit and of those the smallest drop, else the smallest drop of all."""
        fitting = [one for one, drop in self._steps.items() if drop <= self._max_drop]
        tried = fitting or list(self._steps)
        best = min(tried, key=lambda one: (len(one) if fitting else 0, _order(self._steps[one]), len(one)))
        trail = tuple(Step(one, drop) for one, drop in self._steps.items())
        return Found(best, self._steps[best], bool(fitting), trail)


def _fitting_count(order: Sequence[str], trail: _Trail) -> int | None:
    """Return how many of the most costly layers are enough, None if all of them are not."""
    failed, count = -1, 0
    while not trail.fits(tuple(order[:count])):
        if count == len(order):
            return None
        failed, count = count, min(len(order), max(1, 2 * count))
    while count - failed > 1:
        middle = (failed + count) // 2
        if trail.fits(tuple(order[:middle])):
            count = middle
        else:
            failed = middle
    return count


def _order(drop: float) -> float:
    return math.inf if math.isnan(drop) else drop
