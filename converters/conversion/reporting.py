"""Fills the report of a conversion, and turns it into the files that lie in its package."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from converters.compress import pack
from converters.conversion import assemble
from converters.conversion.assemble import Verdict
from converters.conversion.attempts import Attempts
from converters.conversion.preparation import Prepared
from converters.conversion.recipe import Recipe
from converters.conversion.workshop import Workshop
from converters.errors import ConversionError, WorkerError
from converters.processing.processor import Processing
from converters.quantize import variants
from converters.report import html
from converters.report.model import Histogram, Pruning, Report, SearchStep, Sensitivity
from converters.workers import messages
from edge_agent.documents.errors import ModelLoadError
from edge_agent.documents.manifest import File

HTML: Final = "report.html"
JSON: Final = "report.json"
PAGES: Final = (HTML, JSON)
"""What lies beside a package's manifest for people and their programs."""

_TENSORS: Final = 12
"""Histograms in a report: the inputs, the outputs, and what is hardest to quantize."""


def report(
    shop: Workshop,
    recipe: Recipe,
    prepared: Prepared,
    tried: Attempts,
    verdicts: Sequence[Verdict],
    best: Sequence[Verdict],
    files: Mapping[str, File],
    metadata: Mapping[str, Any],
) -> Report:
    """Return everything that a conversion found; `files` says how each variant travels, by its digest."""
    named, reference = prepared.identity, prepared.reference
    trained = reference.trained
    searched = tried.searched[0] if tried.searched else None
    rows = assemble.rows(reference, verdicts, best, files, named.labels)
    return Report(
        name=named.name,
        version=named.version,
        timestamp=named.timestamp,
        framework=prepared.floats.framework,
        source_sha256=prepared.floats.sha256,
        source_bytes=trained.source.size_bytes,
        rows=(*rows, *tried.skipped),
        inputs=assemble.signature(reference, best).inputs,
        outputs=assemble.signature(reference, best).outputs,
        metric=trained.metric.plain,
        float_score=trained.score,
        float_per_class=assemble.by_name(trained.per_class, named.labels),
        histograms=_histograms(shop, recipe, prepared),
        sensitivities=()
        if searched is None
        else tuple(Sensitivity(one.layer, one.loss) for one in searched.sensitivities),
        search=()
        if searched is None
        else tuple(SearchStep(step.excluded, step.drop) for step in searched.found.trail),
        pruning=_pruning(shop, recipe, prepared),
        preprocessing=Processing(recipe.preprocess, recipe.postprocess, named.labels).sentences(),
        recipe=metadata["recipe"],
        tools=metadata["tools"],
        evaluation=metadata["evaluation"],
        golden_samples=reference.golden,
        gate=recipe.gate,
        notes=prepared.notes,
    )


def files(found: Report, *, with_times: bool) -> dict[str, bytes]:
    """Return the report's page and JSON by file name; without times equal reports give equal bytes."""
    plain = found.as_json(with_times=with_times)
    return {
        HTML: html.render(found, with_times=with_times).encode(),
        JSON: (json.dumps(plain, indent=2, ensure_ascii=False) + "\n").encode(),
    }


def _histograms(shop: Workshop, recipe: Recipe, prepared: Prepared) -> tuple[Histogram, ...]:
    """Show the calibration of one format, where there was one."""
    calibrated = [
        name
        for name, precisions in prepared.wanted.items()
        if any(one in variants.NEEDS_DATA and one != prepared.sources[name].precision for one in precisions)
    ]
    if not calibrated:
        return ()
    source = prepared.sources[calibrated[0]]
    data = shop.bench.samples_file(prepared.calibration.inputs)
    ask = messages.Observe(
        engine=source.engine,
        source=str(source.path.absolute()),
        data=str(data.absolute()),
        tensors=_TENSORS,
        settings=recipe.quantize,
    )
    try:
        shown = shop.bench.observe(ask)
    except (ConversionError, ModelLoadError, WorkerError):
        # The variants are made and judged: a picture less is no reason to lose them.
        return ()
    return tuple(Histogram(one.name, one.edges, one.counts, one.low, one.high) for one in shown)


def _pruning(shop: Workshop, recipe: Recipe, prepared: Prepared) -> Pruning | None:
    floats = prepared.floats
    if recipe.prune is None or not floats.pruned:
        return None
    name = next(iter(floats.plain))
    before, after = floats.plain[name], floats.pruned[name]
    return Pruning(
        sparsity=floats.sparsity,
        layers=floats.layers,
        compressed_before_bytes=pack(before.path, shop.folder)[0].size_bytes,
        compressed_after_bytes=pack(after.path, shop.folder)[0].size_bytes,
        method=recipe.prune.method,
        size_before_bytes=before.size_bytes,
        size_after_bytes=after.size_bytes,
    )
