"""The sweep: plan the trials, run them side by side, time the files alone, find the front, pick and package."""

import dataclasses
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from converters.checks.metrics import Metric
from converters.conversion.identity import identify
from converters.conversion.recipe import Recipe
from converters.errors import ConversionError
from converters.package import mapping_os_errors
from converters.quantize.variants import OFFERED
from converters.report.model import VariantRow
from converters.sweep import building
from converters.sweep.install import install
from converters.sweep.measure import Timed, latencies_ms
from converters.sweep.parallel import Outcome, RunTrial, run_all
from converters.sweep.pick import Pick, choose, parse
from converters.sweep.results import Row, Sweep, arranged, judged
from converters.sweep.trials import Facts, Trial, trials
from converters.terms import Progress
from edge_agent.documents.errors import EdgeAgentError, RequestError
from edge_agent.documents.manifest import Variant

LearnFacts = Callable[[Recipe], Facts]

_TRIALS_SHARE = 0.85
"""Share of the progress that the trials take; timing takes the rest."""


@dataclass(frozen=True, slots=True)
class Builder:
    """What the sweep drives: how a model's facts are learned, and how a recipe is carried out."""

    facts: LearnFacts = building.facts
    run_trial: RunTrial = building.run_trial


def plan(
    models: Sequence[Path | str],
    recipe: Recipe,
    *,
    prune: Sequence[float] = (),
    pick: str | None = None,
    builder: Builder = Builder(),
) -> list[Trial]:
    """Return what `sweep` would try, without doing it; raises as `sweep` does."""
    aim = None if pick is None else parse(pick).max_drop
    for name in recipe.precision or ():
        if name not in OFFERED:
            raise RequestError(f"There is no precision '{name}'; choose among {', '.join(OFFERED)}.")
    version = recipe.version or datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    found = []
    for model, label in zip(models, _labels(models), strict=True):
        own = dataclasses.replace(recipe, model=str(model), version=version)
        found += trials(label, own, builder.facts(own), prune, aim)
    if not found:
        raise RequestError(
            "There is nothing to try: the models allow none of the targets and precisions that the recipe asks "
            "for; leave `to` and `precision` out of it."
        )
    return found


def sweep(
    models: Sequence[Path | str],
    recipe: Recipe,
    *,
    prune: Sequence[float] = (),
    pick: str | None = None,
    jobs: int | None = None,
    backend: str | None = None,
    builder: Builder = Builder(),
    progress: Progress = lambda step, share: None,
) -> Sweep:
    """Try the sensible recipes for each model on the same data, and return what each gave and the front.

    - `recipe` gives data, labels, metric and, if it names them, the targets and precisions to keep to; its gate
      is not applied.
    - `prune`: levels of sparsity to try beside not pruning, 0 to 1.
    - `pick`: as `drop<=0.5pt, fastest`; what is picked is packaged under the recipe's `out`.
    - `jobs`, `backend`: see `parallel.run_all`.

    A trial that fails is a row with its reason; that nothing meets the pick, or that it cannot be packaged, is
    said by `unmet`, and then nothing is left behind. Raises RequestError for a bad pick, model or backend and
    for a package that is there already, ConversionError when every trial fails.
    """
    wanted = None if pick is None else parse(pick)
    progress("plan the trials", 0.0)
    planned = plan(models, recipe, prune=prune, pick=pick, builder=builder)
    if wanted is not None:
        _check_free(planned)

    def done(count: int) -> None:
        progress(f"{count} of {len(planned)} trials", _TRIALS_SHARE * count / len(planned))

    with (
        mapping_os_errors(Path(tempfile.gettempdir())),
        # A process that is being killed may still write when its folder is removed.
        tempfile.TemporaryDirectory(prefix="edge-sweep-", ignore_cleanup_errors=True) as scratch,
    ):
        done(0)
        outcomes = run_all(builder.run_trial, planned, Path(scratch), jobs, backend, done)
        rows = _timed_rows(planned, outcomes, Path(scratch), progress)
        found = Sweep(tuple(arranged(rows)), _metric(outcomes), pick or "")
        if wanted is not None:
            try:
                found = _take(found, wanted, planned, outcomes, Path(recipe.out))
            except EdgeAgentError as error:
                # What was measured is worth showing all the same.
                found = dataclasses.replace(found, unmet=str(error))
    progress("done", 1.0)
    return found


def _check_free(planned: Sequence[Trial]) -> None:
    """Raise RequestError where a pick could not be packaged, before hours are spent on it."""
    for recipe in {trial.model: trial.recipe for trial in planned}.values():
        identity = identify(recipe, "", ())
        folder = Path(recipe.out, identity.name, identity.version)
        if folder.exists():
            raise RequestError(
                f"{folder} is there already, so that nothing could be packaged there; give another --version, "
                "or remove it."
            )


def _timed_rows(
    planned: Sequence[Trial], outcomes: Sequence[Outcome], scratch: Path, progress: Progress
) -> list[Row]:
    packages = [outcome.package for outcome in outcomes if outcome.package is not None]
    if not packages:
        raise ConversionError(
            f"None of the {len(planned)} trials came to anything; the first, {planned[0].name}: "
            f"{outcomes[0].reason}"
        )
    files = [Timed(package, variant) for package in packages for variant in package.manifest.variants]
    times_ms, reasons = latencies_ms(
        files,
        scratch,
        lambda share: progress("time the files", _TRIALS_SHARE + (1 - _TRIALS_SHARE) * share),
    )
    rows = [row for trial, outcome in zip(planned, outcomes, strict=True) for row in _rows(trial, outcome)]
    timed = [
        dataclasses.replace(
            row, latency_ms=times_ms.get(row.sha256), reason=row.reason or reasons.get(row.sha256, "")
        )
        for row in rows
    ]
    return judged(timed, _metric(outcomes), _float_scores(planned, outcomes))


def _rows(trial: Trial, outcome: Outcome) -> list[Row]:
    if outcome.package is None:
        return [Row(trial.model, trial.name, reason=outcome.reason)]
    package = outcome.package
    made = [row for row in package.rows if row.packaged]
    found = [_made(trial, row, variant) for row, variant in zip(made, package.manifest.variants, strict=True)]
    left_out = [row for row in package.rows if not row.packaged]
    return found + [
        Row(trial.model, trial.name, row.precision, row.engine, row.architectures, reason=row.reason)
        for row in left_out
    ]


def _made(trial: Trial, row: VariantRow, variant: Variant) -> Row:
    return Row(
        model=trial.model,
        trial=trial.name,
        precision=row.precision,
        engine=row.engine,
        architectures=row.architectures,
        sha256=variant.file.kept_sha256,
        size_bytes=variant.file.kept_size_bytes,
        transfer_bytes=variant.file.size_bytes,
        score=row.score,
        agreement=row.agreement,
        drop=row.drop,
    )


def _take(
    found: Sweep, wanted: Pick, planned: Sequence[Trial], outcomes: Sequence[Outcome], out: Path
) -> Sweep:
    """Pick a row and package its whole trial."""
    measured = [(index, row.result) for index, row in enumerate(found.rows) if row.result is not None]
    at = measured[choose(wanted, [result for _, result in measured])][0]
    row = found.rows[at]
    package = next(
        outcome.package
        for trial, outcome in zip(planned, outcomes, strict=True)
        if (trial.model, trial.name) == (row.model, row.trial) and outcome.package is not None
    )
    own = [one for one in found.rows if (one.model, one.trial) == (row.model, row.trial)]
    folder = install(package, own, found.pick, wanted.max_drop, out)
    rows = tuple(dataclasses.replace(one, picked=index == at) for index, one in enumerate(found.rows))
    return dataclasses.replace(found, rows=rows, package=folder)


def _metric(outcomes: Sequence[Outcome]) -> Metric:
    """Return what the trials, which share their data, were scored by."""
    return next(outcome.package.report.metric for outcome in outcomes if outcome.package is not None)


def _float_scores(planned: Sequence[Trial], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the score of each model as it was trained."""
    scores: dict[str, float] = {}
    for trial, outcome in zip(planned, outcomes, strict=True):
        if outcome.package is not None and outcome.package.report.float_score is not None:
            scores.setdefault(trial.model, outcome.package.report.float_score)
    return scores


def _labels(models: Sequence[Path | str]) -> list[str]:
    """Return a short name for each model: of its file, or the whole path where two files have the same."""
    short = [Path(re.sub(r"[?:]", "-", str(model))).stem for model in models]
    return [name if short.count(name) == 1 else str(model) for name, model in zip(short, models, strict=True)]
