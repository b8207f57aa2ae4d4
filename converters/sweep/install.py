"""From the package of a trial to one in the folder where `build` puts them."""

from pathlib import Path
from typing import Any

from converters.conversion import reporting
from converters.package import write_package
from converters.report.model import Package
from converters.sweep.results import Row
from edge_agent.documents.manifest import Manifest, Variant, blob_path


def install(package: Package, rows: list[Row], pick: str, max_drop: float | None, out: Path) -> Path:
    """Package what a trial made under `out`, and return the folder.

    Latencies are those of `rows`, taken alone, and the manifest says by what it was picked instead of by which
    gate it passed. Raises RequestError when another package of this name and version is there, StorageError.
    """
    manifest = _picked(package.manifest, {row.sha256: row for row in rows}, pick, max_drop, rows[0].trial)
    files = [variant.file for variant in manifest.variants]
    if manifest.golden is not None:
        files.append(manifest.golden.file)
    blobs = {file.sha256: package.folder / blob_path(file.sha256) for file in files}
    pages = {name: (package.folder / name).read_bytes() for name in reporting.PAGES}
    folder, _ = write_package(out, manifest, blobs, pages)
    return folder


def _picked(
    manifest: Manifest, rows: dict[str, Row], pick: str, max_drop: float | None, trial: str
) -> Manifest:
    metadata: dict[str, Any] = {**manifest.metadata, "sweep": {"trial": trial, "pick": pick}}
    if isinstance(evaluation := metadata.get("evaluation"), dict) and "max_drop" in evaluation:
        metadata["evaluation"] = {**evaluation, "max_drop": max_drop}
    variants = tuple(_timed(variant, rows.get(variant.file.kept_sha256)) for variant in manifest.variants)
    return manifest.model_copy(update={"metadata": metadata, "variants": variants})


def _timed(variant: Variant, row: Row | None) -> Variant:
    # Without it in the first place the build is a reproducible one, which leaves latencies out.
    if row is None or row.latency_ms is None or "latency_ms" not in variant.metrics:
        return variant
    metrics = {**variant.metrics, "latency_ms": round(row.latency_ms, 3)}
    return variant.model_copy(update={"metrics": metrics})
