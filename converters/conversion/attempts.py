"""Makes every variant that is wanted, judges it on every runtime, and measures what it takes."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from converters.checks import gate
from converters.checks.judge import Judged, judge
from converters.conversion import assemble
from converters.conversion.preparation import Prepared
from converters.conversion.recipe import Recipe
from converters.conversion.workshop import Workshop
from converters.errors import ConversionError, WorkerError
from converters.formats.sources import SourceModel
from converters.quantize import search, variants
from converters.quantize.settings import QuantizeSettings
from converters.quantize.variants import Candidate
from converters.report.model import VariantRow
from converters.terms import Advanced, Format, unheard
from converters.workers.trials import Loaded
from edge_agent.documents.errors import EdgeAgentError, StorageError
from edge_agent.documents.manifest import Precision

_SEARCHED: Final[tuple[Precision, ...]] = ("int8", "int16x8")
"""Dynamic variants have float activations, which is where most of what int8 loses goes."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What the search found for one precision of one format."""

    engine: Format
    precision: Precision
    found: search.Found
    sensitivities: tuple[search.Sensitivity, ...]


@dataclass(frozen=True, slots=True)
class Attempts:
    """What came of everything that was tried."""

    judged: tuple[Judged, ...]
    skipped: tuple[VariantRow, ...]
    """Default variants that could not be made, with the reason."""
    searched: tuple[Searched, ...]


def attempt(shop: Workshop, recipe: Recipe, prepared: Prepared) -> Attempts:
    """Make and judge all variants; raises ConversionError for one that was asked for and cannot be made."""
    wanted = [(name, one) for name, precisions in prepared.wanted.items() for one in precisions]
    judged: list[Judged] = []
    skipped: list[VariantRow] = []
    searched: list[Searched] = []
    for index, (name, precision) in enumerate(wanted):
        begin, end = (0.3 + 0.5 * step / len(wanted) for step in (index, index + 1))
        one = _Attempt(shop, recipe, prepared, name, precision, begin, end)
        try:
            judged += one.run()
        except (ConversionError, WorkerError) as error:
            if recipe.precision is not None:
                raise
            skipped.append(VariantRow(precision, name, (), packaged=False, reason=str(error)))
        searched += one.searched
    return Attempts(tuple(judged), tuple(skipped), tuple(searched))


def measure(shop: Workshop, prepared: Prepared, judged: Sequence[Judged]) -> None:
    """Time and weigh what runs here as it would on a device of this architecture, on each of its runtimes."""
    shop.progress("measure latency and memory", 0.8)
    here = platform.machine()
    timed = [one for one in judged if one.loaded and one.candidate.architectures in ((), (here,))]
    if not timed:
        return
    # Where one takes integers, all do.
    sample = timed[0].takes(prepared.reference.evaluation.inputs[:1])[0]
    models = [(one, _loaded(shop, one, runtime)) for one in timed for runtime in one.runtimes]
    measured = shop.bench.measure([loaded for _, loaded in models], sample)
    for (one, loaded), found in zip(models, measured, strict=True):
        one.latencies_ms[loaded.runtime] = found.latency_ms
        one.memories_bytes[loaded.runtime] = found.memory_bytes


def _loaded(shop: Workshop, judged: Judged, runtime: str) -> Loaded:
    if judged.loaded is not None and judged.loaded.runtime_name == runtime:
        return judged.loaded
    return shop.bench.load(judged.candidate.engine, runtime, judged.candidate.path)


class _Attempt:
    """One precision of one format."""

    def __init__(
        self,
        shop: Workshop,
        recipe: Recipe,
        prepared: Prepared,
        name: Format,
        precision: Precision,
        begin: float,
        end: float,
    ) -> None:
        self._shop = shop
        self._recipe = recipe
        self._prepared = prepared
        self._name = name
        self._precision = precision
        self._begin = begin
        self._end = end
        self._first: tuple[str, ...] = ()
        """The runtime that trials of a search are judged on."""
        self.searched: list[Searched] = []

    def run(self) -> list[Judged]:
        """Make the files, judge them, and try again in float or in another way what was wrong."""
        self._shop.progress(f"make {self._name} {self._precision}", self._begin)
        settings = self._recipe.quantize
        files = self._make(())
        if self._recipe.precision is None and self._precision != self._source.precision:
            self._check_smaller(files)
        judged = self._judge(files)
        self._first = next((one.runtimes[:1] for one in judged if one.runtimes), self._runtimes[:1])
        if settings.search and self._precision in _SEARCHED and self._source.precision != self._precision:
            judged = self._searched(judged)
        return judged + self._fallback(judged)

    @property
    def _source(self) -> SourceModel:
        return self._prepared.sources[self._name]

    @property
    def _runtimes(self) -> tuple[str, ...]:
        return self._prepared.runtimes[self._name]

    @property
    def _settings(self) -> QuantizeSettings:
        """The recipe's settings with what a search has found."""
        settings = self._recipe.quantize
        found = tuple(layer for one in self.searched for layer in one.found.excluded)
        return replace(settings, exclude=settings.exclude + found)

    def _make(self, excluded: tuple[str, ...]) -> list[Candidate]:
        settings = self._recipe.quantize
        return variants.make(
            self._shop.bench,
            self._source,
            self._precision,
            self._prepared.calibration.inputs,
            self._shop.folder,
            replace(settings, exclude=settings.exclude + excluded),
        )

    def _judge(self, files: Sequence[Candidate]) -> list[Judged]:
        advanced = self._part("check", 0.3)
        return [
            judge(self._shop.bench, self._prepared.reference, file, self._runtimes, advanced) for file in files
        ]

    def _searched(self, judged: list[Judged]) -> list[Judged]:
        """Find the layers that stay in float, where the plain variant loses too much."""
        # The gate forgives the last bit, too.
        limit = self._recipe.gate.max_drop + gate.SLACK
        if max(self._drop(one) for one in judged) <= limit:
            return judged
        found, ranked = search.search(
            self._shop.bench,
            self._source,
            self._precision,
            self._prepared.calibration.inputs,
            self._shop.folder,
            self._recipe.quantize,
            self._drop_of,
            limit,
            self._part("search the layers of", 0.5),
        )
        self.searched.append(Searched(self._name, self._precision, found, tuple(ranked)))
        again = self._judge(self._make(found.excluded))
        for one in again:
            one.excluded = found.excluded
        return again

    def _drop_of(self, files: Sequence[Candidate]) -> float:
        with self._shop.bench.brief() as brief:
            reference = self._prepared.reference
            drops = [self._drop(judge(brief, reference, file, self._first, unheard)) for file in files]
        for file in files:
            # There may be dozens of trials.
            file.path.unlink(missing_ok=True)
        return max(drops)

    def _drop(self, judged: Judged) -> float:
        """Return the points lost, infinitely many where nothing runs it right.

        What lacks in the least agreement counts as points beyond the limit, so that a search goes on.
        """
        if judged.failure:
            return float("inf")
        measured, limits = assemble.measured(self._prepared.reference, judged), self._recipe.gate
        lacking = (limits.min_agreement or 0.0) - measured.agreement
        return max(measured.drop, limits.max_drop + 100 * lacking) if lacking > 0 else measured.drop

    def _fallback(self, judged: Sequence[Judged]) -> list[Judged]:
        """Make the variant in another way for the runtimes that get it wrong."""
        left = tuple(name for one in judged for name in one.refused if not one.failure)
        if not left:
            return []
        try:
            candidate = variants.make_fallback(
                self._shop.bench, self._source, self._precision, self._shop.folder, self._settings
            )
            if candidate is None:
                return []
            other = judge(self._shop.bench, self._prepared.reference, candidate, left, unheard)
        except StorageError:
            raise
        except EdgeAgentError:
            return []
        return [] if other.failure else [other]

    def _check_smaller(self, files: Sequence[Candidate]) -> None:
        if min(file.size_bytes for file in files) >= self._source.size_bytes:
            raise ConversionError("It would not be smaller than the source model.")

    def _part(self, doing: str, share: float) -> Advanced:
        begin = self._begin + share * (self._end - self._begin)
        return self._shop.part(f"{doing} {self._name} {self._precision}", begin, self._end)
