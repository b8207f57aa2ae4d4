"""What a conversion found, as plain frozen values: filled by the converter, shown by the other modules here."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from converters.checks.gate import Gate
from converters.checks.metrics import Metric
from edge_agent.documents.manifest import Manifest, Precision
from edge_agent.documents.tensors import TensorSpec


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
    compressed_bytes: int | None = None
    """What travels to a device; None where it travels as it is."""
    latency_ms: float | None = None
    """Median of a run on this host's reference runtime; None where this host says nothing about it."""
    memory_bytes: int | None = None
    """Resident memory that loading and running add at their peak, on this host's reference runtime."""
    latencies_ms: Mapping[str, float] = field(default_factory=dict)
    """The same as `latency_ms` by runtime with its version."""
    memories_bytes: Mapping[str, int] = field(default_factory=dict)
    """The same as `memory_bytes` by runtime with its version."""
    agreement: float | None = None
    """With the float model's answers, 0 to 1."""
    score: float | None = None
    """Of the report's metric; None where nothing was given to score against."""
    drop: float | None = None
    """Points that the gate judges: lost of the metric, else of agreement; below 0 where it gained."""
    per_class: Mapping[str, float] = field(default_factory=dict)
    """Share of each class's samples that it recognises, by class name or number."""
    max_error: Mapping[str, float] | None = None
    """Largest difference from the float model on golden samples, by output."""
    excluded: tuple[str, ...] = ()
    """Layers that were kept in float."""
    method: str = ""
    """How it was made; `as it is` for the source itself."""

    @property
    def label(self) -> str:
        """Engine and precision, with the architectures if it is for some only."""
        name = f"{self.engine} {self.precision}"
        return f"{name} ({', '.join(self.architectures)})" if self.architectures else name

    @property
    def travel_bytes(self) -> int | None:
        """What a device downloads."""
        return self.size_bytes if self.compressed_bytes is None else self.compressed_bytes


@dataclass(frozen=True, slots=True)
class Histogram:
    """The values of one tensor over the calibration samples, and the range that was chosen for it."""

    tensor: str
    edges: tuple[float, ...]
    """Of the bins, ascending; one more than `counts`."""
    counts: tuple[int, ...]
    low: float
    high: float
    """What lies outside `low` to `high` is clipped to it."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What quantizing one layer alone costs."""

    layer: str
    loss: float
    """Squared error of the answers, as a share of their variance: it orders the layers, and is no points."""


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One attempt of the search for layers to keep in float."""

    kept: tuple[str, ...]
    """Layers in float."""
    drop: float
    """Points lost with them in float."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """What pruning did, as measured; sizes are those of a float file."""

    sparsity: float
    """Share of the prunable weights that are zero, or of the channels that are gone, 0 to 1."""
    layers: Mapping[str, float]
    """The same by layer."""
    compressed_before_bytes: int | None = None
    compressed_after_bytes: int | None = None
    method: Literal["magnitude", "channels"] = "magnitude"
    """Single weights, which stay as zeros, or whole channels, which the graph no longer has."""
    size_before_bytes: int | None = None
    size_after_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a conversion found."""

    name: str
    version: str
    timestamp: datetime
    framework: str
    source_sha256: str
    source_bytes: int
    """Size of the float model that variants are compared with."""
    rows: tuple[VariantRow, ...]
    """Packaged ones first, in the manifest's order."""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    metric: Metric = field(default_factory=Metric)
    float_score: float | None = None
    """None where nothing was given to score against."""
    float_per_class: Mapping[str, float] = field(default_factory=dict)
    histograms: tuple[Histogram, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()
    """The layers that lose most first."""
    search: tuple[SearchStep, ...] = ()
    pruning: Pruning | None = None
    preprocessing: tuple[str, ...] = ()
    """What the graph does to raw inputs and outputs itself, one sentence each."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Plain values only."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Versions by distribution."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the samples: their number, whether given or generated, digest."""
    golden_samples: int = 0
    gate: Gate = field(default_factory=Gate)
    notes: tuple[str, ...] = ()
    """What the caller should know, one sentence each."""

    def as_json(self, *, with_times: bool = True) -> dict[str, Any]:
        """Return everything as plain values; `with_times=False` leaves out what differs from run to run.

        Keys, which stay: `schema` (1), `name`, `version`, `timestamp` (ISO 8601), `source` {framework, sha256,
        size_bytes}, `inputs` and `outputs` [{name, datatype, shape}], `metric` {name, is_share,
        higher_is_better}, `float` {score, per_class}, `variants` [{label and every field of VariantRow}],
        `calibration` [{tensor, edges, counts, low, high}], `sensitivities` [{layer, loss}], `search` [{kept,
        drop}], `pruning` {sparsity, layers, compressed_before_bytes, compressed_after_bytes, method,
        size_before_bytes, size_after_bytes} or null, `preprocessing` [text], `gate` {its limits}, `evaluation`,
        `golden_samples`, `recipe`, `tools`, `notes`.

        What was not measured is null, and so is the drop where no runtime gets it right; a list or an object
        that has nothing is empty. Without times, the variants' `latency_ms` and `memory_bytes` are null and
        `latencies_ms` and `memories_bytes` are empty.
        """
        report = self if with_times else timeless(self)
        return {
            "schema": 1,
            "name": report.name,
            "version": report.version,
            "timestamp": report.timestamp.isoformat(),
            "source": {
                "framework": report.framework,
                "sha256": report.source_sha256,
                "size_bytes": report.source_bytes,
            },
            "inputs": [plain_tensor(spec) for spec in report.inputs],
            "outputs": [plain_tensor(spec) for spec in report.outputs],
            "metric": plain(report.metric),
            "float": plain({"score": report.float_score, "per_class": report.float_per_class}),
            "variants": [{"label": row.label, **plain(row)} for row in report.rows],
            "calibration": [plain(one) for one in report.histograms],
            "sensitivities": [plain(one) for one in report.sensitivities],
            "search": [plain(one) for one in report.search],
            "pruning": None if report.pruning is None else plain(report.pruning),
            "preprocessing": list(report.preprocessing),
            "gate": plain(report.gate),
            "evaluation": dict(report.evaluation),
            "golden_samples": report.golden_samples,
            "recipe": dict(report.recipe),
            "tools": dict(report.tools),
            "notes": list(report.notes),
        }


@dataclass(frozen=True, slots=True)
class Package:
    """A packaged version: where it lies and how it came about."""

    folder: Path
    manifest: Manifest
    report: Report
    is_new: bool = True
    """False when the same package was there already and was left as it is."""

    @property
    def rows(self) -> tuple[VariantRow, ...]:
        """The report's rows: packaged ones first, in the manifest's order."""
        return self.report.rows

    @property
    def notes(self) -> tuple[str, ...]:
        """What the caller should know, one sentence each."""
        return self.report.notes

    def as_json(self) -> dict[str, Any]:
        """Return the report's plain values with `folder` and `new` before them, for `--json`."""
        return {"folder": str(self.folder), "new": self.is_new, **self.report.as_json()}


def timeless(report: Report) -> Report:
    """Return the report without what differs from run to run: latencies and memory."""
    rows = tuple(
        dataclasses.replace(row, latency_ms=None, memory_bytes=None, latencies_ms={}, memories_bytes={})
        for row in report.rows
    )
    return dataclasses.replace(report, rows=rows)


def plain_tensor(spec: TensorSpec) -> dict[str, Any]:
    """Return a tensor's name, datatype and shape as plain values."""
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def plain(value: Any) -> Any:
    """Turn dataclasses, mappings and tuples into objects and lists, infinity and NaN into null."""
    if dataclasses.is_dataclass(value):
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
