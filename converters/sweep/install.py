"""From the package of a trial to one in the folder where `build` puts them."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.checks.gate import Gate
from converters.conversion import identity, reporting
from converters.package import write_package
from converters.report.model import Package, Report
from converters.sweep.results import Row
from edge_agent.documents.manifest import Manifest, Variant, blob_path


def install(package: Package, rows: list[Row], pick: str, max_drop: float | None, out: Path) -> Path:
    """Package what a trial made under `out`, and return the folder.

    Latencies are those of `rows`, taken alone; others, taken while all cores were busy, are left out. Manifest
    and pages say by what it was picked instead of by which gate it passed. Raises RequestError when another
    package of this name and version is there, StorageError.
    """
    times_ms = {row.sha256: row.latency_ms for row in rows if row.latency_ms is not None}
    manifest = _picked(package.manifest, times_ms, pick, max_drop, rows[0].trial)
    files = [variant.file for variant in manifest.variants]
    if manifest.golden is not None:
        files.append(manifest.golden.file)
    blobs = {file.sha256: package.folder / blob_path(file.sha256) for file in files}
    report = _report(package, manifest, max_drop)
    pages = reporting.files(report, with_times=not identity.is_reproducible())
    folder, _ = write_package(out, manifest, blobs, pages)
    return folder


def _picked(
    manifest: Manifest, times_ms: Mapping[str, float], pick: str, max_drop: float | None, trial: str
) -> Manifest:
    metadata: dict[str, Any] = {**manifest.metadata, "sweep": {"trial": trial, "pick": pick}}
    if isinstance(evaluation := metadata.get("evaluation"), dict) and "max_drop" in evaluation:
        metadata["evaluation"] = {**evaluation, "max_drop": max_drop}
    if isinstance(recipe := metadata.get("recipe"), dict):
        metadata["recipe"] = _gated(recipe, max_drop)
    variants = tuple(_timed(variant, times_ms.get(variant.file.kept_sha256)) for variant in manifest.variants)
    return manifest.model_copy(update={"metadata": metadata, "variants": variants})


def _gated(recipe: Mapping[str, Any], max_drop: float | None) -> dict[str, Any]:
    """Return the recipe with the pick's limit in place of the trial's gate, which is open or a search's aim."""
    own = {key: value for key, value in recipe.items() if key != "gate"}
    return own if max_drop is None else {**own, "gate": {"max_drop": max_drop}}


def _report(package: Package, manifest: Manifest, max_drop: float | None) -> Report:
    """Return the trial's report with the manifest's facts and latencies, and no other times."""
    rows = [dataclasses.replace(row, latency_ms=None, latencies_ms={}) for row in package.report.rows]
    packaged = [row for row in rows if row.packaged]
    made = [
        dataclasses.replace(row, latency_ms=variant.metrics.get("latency_ms"))
        for row, variant in zip(packaged, manifest.variants, strict=True)
    ]
    return dataclasses.replace(
        package.report,
        rows=(*made, *(row for row in rows if not row.packaged)),
        recipe=manifest.metadata["recipe"],
        evaluation=manifest.metadata["evaluation"],
        gate=Gate(max_drop=math.inf if max_drop is None else max_drop),
    )


def _timed(variant: Variant, latency_ms: float | None) -> Variant:
    # Without it in the first place the build is a reproducible one, which leaves latencies out.
    if "latency_ms" not in variant.metrics:
        return variant
    metrics = {name: value for name, value in variant.metrics.items() if name != "latency_ms"}
    if latency_ms is not None:
        metrics["latency_ms"] = round(latency_ms, 3)
    return variant.model_copy(update={"metrics": metrics})
