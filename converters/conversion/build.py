"""From a recipe to a packaged version: the order of the steps."""

from pathlib import Path
from typing import Any

from converters import arrays
from converters.checks.judge import Judged, Reference
from converters.compress import pack, plain
from converters.conversion import assemble, attempts, identity, reporting, tools
from converters.conversion.attempts import Attempts
from converters.conversion.preparation import Live, Prepared, prepare
from converters.conversion.recipe import Recipe, described
from converters.conversion.workshop import Workshop, workshop
from converters.package import write_package
from converters.report.model import Package
from converters.terms import Progress


def build(
    recipe: Recipe,
    *,
    live_model: object | None = None,
    live: Live | None = None,
    progress: Progress = lambda step, share: None,
) -> Package:
    """Convert, check, gate and package as the recipe says.

    A live model, live data or a function stand in for what the recipe names. Raises a subclass of
    EdgeAgentError with one sentence; then nothing is left behind.
    """
    with workshop(progress) as shop:
        prepared = prepare(shop, recipe, live_model, live or Live())
        tried = attempts.attempt(shop, recipe, prepared)
        attempts.measure(shop, prepared, tried.judged)
        return _package(shop, recipe, prepared, tried)


def _package(shop: Workshop, recipe: Recipe, prepared: Prepared, tried: Attempts) -> Package:
    shop.progress("compress and write the package", 0.95)
    timed = not identity.is_reproducible()
    verdicts = assemble.verdicts(prepared.reference, tried.judged, recipe.gate)
    assemble.check_asked_for(
        verdicts,
        prepared.wanted,
        precisions=recipe.precision is not None,
        formats=recipe.to is not None,
    )
    best = assemble.ordered(verdicts, recipe.order, by_latency=timed)
    packed = {verdict.sha256: pack(verdict.judged.candidate.path, shop.folder) for verdict in best}
    golden = shop.folder / "golden.npz"
    arrays.write_arrays(golden, _golden(prepared.reference, best[0].judged), compress=True)
    files = {sha256: file for sha256, (file, _) in packed.items()}
    facts = metadata(recipe, prepared)
    manifest = assemble.manifest(
        prepared.identity,
        prepared.floats,
        prepared.reference,
        best,
        plain(golden),
        files,
        facts,
        with_latency=timed,
    )
    blobs = {plain(golden).sha256: golden} | {file.sha256: path for file, path in packed.values()}
    report = reporting.report(shop, recipe, prepared, tried, verdicts, best, files, facts)
    pages = reporting.files(report, with_times=timed)
    folder, is_new = write_package(Path(recipe.out), manifest, blobs, pages)
    shop.progress("done", 1.0)
    return Package(folder, manifest, report, is_new)


def metadata(recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    """Return what a manifest tells people of how a version was made."""
    reference, floats = prepared.reference.trained, prepared.floats
    own: dict[str, Any] = {"precision": reference.source.precision, "size_bytes": reference.source.size_bytes}
    if reference.score is not None:
        own[reference.metric.name] = round(reference.score, 6)
    found: dict[str, Any] = {
        "float": own,
        "evaluation": {
            "samples": len(reference.evaluation),
            "data": "generated" if prepared.columns is None else "given",
            "data_sha256": None if prepared.columns is None else prepared.columns.sha256,
            "evaluation_sha256": None if prepared.evaluation is None else prepared.evaluation.sha256,
            "metric": reference.metric.name,
            "classifier": reference.classifier,
            "max_drop": recipe.gate.max_drop,
        },
        "tools": tools.versions(floats.framework),
        "recipe": described(recipe),
    }
    if floats.pruned:
        found["sparsity"] = round(floats.sparsity, 6)
    return found


def _golden(reference: Reference, best: Judged) -> dict[str, arrays.Array]:
    """Return the golden samples, as integers where all variants take and give those."""
    count = reference.golden
    return {
        **arrays.named(best.takes(reference.evaluation.inputs[:count]), "input"),
        **arrays.named(best.gives(reference.answers[:count]), "output"),
    }
