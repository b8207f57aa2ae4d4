"""From a recipe to a packaged version: the order of the steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converters import arrays, assemble, attempts, identity, reporting, tools
from converters.assemble import Verdict
from converters.attempts import Attempts
from converters.checks.judge import Reference
from converters.compress import pack, plain
from converters.data.live import LiveData
from converters.package import write_package
from converters.preparation import Prepared, prepare
from converters.recipe import Recipe, described
from converters.report.model import Package
from converters.workshop import Progress, Workshop, workshop
from edge_agent.documents.manifest import File


def build(
    recipe: Recipe,
    *,
    live_model: object | None = None,
    live_data: LiveData | None = None,
    progress: Progress = lambda step, share: None,
) -> Package:
    """Convert, check, gate and package as the recipe says.

    A live model or live data stand in for the recipe's paths. Raises a subclass of EdgeAgentError with one
    sentence; then nothing is left behind.
    """
    with workshop(progress) as shop:
        prepared = prepare(shop, recipe, live_model, live_data)
        tried = attempts.attempt(shop, recipe, prepared)
        attempts.measure(shop, prepared, tried.judged)
        return _package(shop, recipe, prepared, tried)


def _package(shop: Workshop, recipe: Recipe, prepared: Prepared, tried: Attempts) -> Package:
    shop.progress("compress and write the package", 0.95)
    timed = not identity.is_reproducible()
    verdicts = assemble.verdicts(prepared.reference, tried.judged, recipe.gate)
    assemble.check_asked_for(verdicts, prepared.wanted, recipe)
    best = assemble.ordered(verdicts, recipe.order, by_latency=timed)
    packed = {verdict.sha256: pack(verdict.judged.candidate.path, shop.folder) for verdict in best}
    golden = shop.folder / "golden.npz"
    arrays.write_arrays(golden, _golden(prepared.reference), compress=True)
    manifest = assemble.manifest(
        prepared.identity,
        prepared.floats,
        prepared.reference,
        best,
        plain(golden),
        {sha256: file for sha256, (file, _) in packed.items()},
        metadata(recipe, prepared),
        with_latency=timed,
    )
    blobs = {plain(golden).sha256: golden} | {file.sha256: path for file, path in packed.values()}
    report = reporting.report(shop, recipe, prepared, tried, verdicts, best, packed)
    folder, is_new = write_package(Path(recipe.out), manifest, blobs, reporting.files(report, timed))
    shop.progress("done", 1.0)
    return Package(folder, manifest, report, is_new)


def metadata(recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    """Return what a manifest tells people of how a version was made."""
    reference, floats = prepared.reference.trained, prepared.floats
    own: dict[str, Any] = {"precision": reference.source.precision, "size_bytes": reference.source.size_bytes}
    if reference.score is not None:
        own[reference.metric.name] = round(reference.score, 6)
    found = {
        "float": own,
        "evaluation": {
            "samples": len(reference.evaluation),
            "data": "generated" if prepared.columns is None else "given",
            "data_sha256": None if prepared.columns is None else prepared.columns.sha256,
            "metric": reference.metric.name,
            "classifier": reference.classifier,
            "max_drop": recipe.gate.max_drop,
        },
        "tools": tools.versions(floats.framework),
        "recipe": described(recipe),
    }
    if floats.sparsity:
        found["sparsity"] = {layer: round(share, 6) for layer, share in floats.sparsity.items()}
    return found


def _golden(reference: Reference) -> dict[str, arrays.Array]:
    count = reference.golden
    return {
        **arrays.named(reference.evaluation.inputs[:count], "input"),
        **arrays.named(reference.answers[:count], "output"),
    }
