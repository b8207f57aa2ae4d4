"""What a conversion found, for people and programs: rows per variant, as a table or JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.documents.manifest import Manifest, Precision


@dataclass(frozen=True, slots=True)
class VariantRow:
    """One candidate: what was measured, and whether it is in the package."""

    precision: Precision
    engine: str
    architectures: tuple[str, ...]
    """Empty means any."""
    packaged: bool
    reason: str = ""
    """Why it was left out, or which runtimes it is not offered to."""
    runtimes: tuple[str, ...] = ()
    size_bytes: int | None = None
    latency_ms: float | None = None
    """Median of a run on this host's reference runtime; None where this host says nothing about it."""
    agreement: float | None = None
    accuracy: float | None = None
    """The score where the metric is accuracy."""
    metric: str = "agreement"
    score: float | None = None
    """By the metric; None for agreement."""
    drop: float | None = None
    """Points of the metric lost against the float model; None for agreement."""
    max_error: Mapping[str, float] | None = None
    """Largest difference from the float model on golden samples, by output."""
    transfer_bytes: int | None = None
    """Length as it travels: compressed where that saves enough; None for what is not packaged."""

    @property
    def label(self) -> str:
        """The precision, with the architectures if it is for some only."""
        return f"{self.precision} ({', '.join(self.architectures)})" if self.architectures else self.precision


@dataclass(frozen=True, slots=True)
class Package:
    """A packaged version: where it lies and how it came about."""

    folder: Path
    manifest: Manifest
    rows: tuple[VariantRow, ...]
    """Packaged ones first, in the manifest's order."""
    notes: tuple[str, ...] = ()
    """What the caller should know, one sentence each."""
    is_new: bool = True
    """False when the same package was there already and was left as it is."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values, for `--json`."""
        return {
            "folder": str(self.folder),
            "name": self.manifest.name,
            "version": self.manifest.version,
            "new": self.is_new,
            "float_accuracy": self.manifest.metadata.get("float", {}).get("accuracy"),
            "evaluation": self.manifest.metadata.get("evaluation"),
            "golden_samples": self.manifest.golden.samples if self.manifest.golden else 0,
            "variants": [_plain(row) for row in self.rows],
            "notes": list(self.notes),
        }


COLUMNS = ("variant", "size", "of source", "compressed", "latency", "accuracy", "agreement", "runs on")
NUMBERS = COLUMNS[1:7]
"""The columns that are aligned to the right."""


def cells(row: VariantRow, source_bytes: int) -> tuple[str, ...]:
    """Return a row's cells for COLUMNS."""
    return (
        row.label,
        "-" if row.size_bytes is None else size(row.size_bytes),
        "-" if row.size_bytes is None else f"{row.size_bytes / source_bytes:.2f}x",
        "-" if row.transfer_bytes in (None, row.size_bytes) else size(row.transfer_bytes),
        "-" if row.latency_ms is None else f"{row.latency_ms:.2f} ms",
        "-" if row.accuracy is None else f"{100 * row.accuracy:.2f} %",
        "-" if row.agreement is None else f"{100 * row.agreement:.2f} %",
        ", ".join(row.runtimes) if row.packaged else "(left out)",
    )


def size(count: int) -> str:
    """Return a number of bytes for a person."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.0f} kB" if count < 1_000_000 else f"{count / 1_000_000:.2f} MB"


def _plain(row: VariantRow) -> dict[str, Any]:
    return {
        "precision": row.precision,
        "engine": row.engine,
        "architectures": list(row.architectures),
        "packaged": row.packaged,
        "reason": row.reason,
        "runtimes": list(row.runtimes),
        "size_bytes": row.size_bytes,
        "transfer_bytes": row.transfer_bytes,
        "latency_ms": row.latency_ms,
        "agreement": row.agreement,
        "accuracy": row.accuracy,
        "metric": row.metric,
        "score": row.score,
        "drop": row.drop,
        "max_error": dict(row.max_error) if row.max_error is not None else None,
    }
