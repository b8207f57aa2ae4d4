"""What a sweep found: a row for each variant or failed trial, as a table or JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from converters.checks.metrics import Metric
from converters.report.front import Point, front
from converters.report.text import milliseconds, points, size
from converters.sweep.pick import Result


@dataclass(frozen=True, slots=True)
class Row:
    """A variant that a trial made, or a trial that made none."""

    model: str
    trial: str
    precision: str = ""
    engine: str = ""
    architectures: tuple[str, ...] = ()
    """Empty means any."""
    sha256: str = ""
    """Of the file as it is run."""
    size_bytes: int | None = None
    transfer_bytes: int | None = None
    """Length as it travels: compressed where that saves enough."""
    score: float | None = None
    """By the sweep's metric; None without labels."""
    agreement: float | None = None
    drop: float | None = None
    """Points lost against its own float model, and if the metric is a share, what that has less than the best
    float model of the sweep; without labels points of agreement with its own."""
    latency_ms: float | None = None
    reason: str = ""
    """Why there is nothing, or why it was not measured."""
    on_front: bool = False
    picked: bool = False

    @property
    def quality(self) -> float | None:
        """What is better the higher it is: 1 for no loss at all."""
        return None if self.drop is None else 1 - self.drop / 100

    @property
    def result(self) -> Result | None:
        """What a pick looks at; None for what was not fully measured."""
        if self.quality is None or self.drop is None or self.agreement is None:
            return None
        if self.transfer_bytes is None or self.latency_ms is None:
            return None
        return Result(self.quality, self.drop, self.transfer_bytes, self.latency_ms, self.agreement)


@dataclass(frozen=True, slots=True)
class Sweep:
    """All rows, those of the front first, each part by latency."""

    rows: tuple[Row, ...]
    metric: Metric
    pick: str = ""
    package: Path | None = None
    """Where the picked version was packaged."""
    unmet: str = ""
    """Why nothing was packaged although there is a pick, in a sentence."""

    @property
    def front(self) -> tuple[Row, ...]:
        """What nothing else beats in quality, size and latency at once."""
        return tuple(row for row in self.rows if row.on_front)

    @property
    def picked(self) -> Row | None:
        """The row that was picked."""
        return next((row for row in self.rows if row.picked), None)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        picked = self.picked
        return {
            "metric": self.metric.name,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "pick": self.pick,
            "picked": None if picked is None else {"model": picked.model, "trial": picked.trial},
            "package": None if self.package is None else str(self.package),
            "unmet": self.unmet,
        }


def judged(rows: Sequence[Row], metric: Metric, float_scores: Mapping[str, float]) -> list[Row]:
    """Return the rows with what their own float models lack beside the best; `float_scores` by model."""
    if not metric.is_share or not float_scores:
        return list(rows)
    best = max(float_scores.values()) if metric.higher_is_better else min(float_scores.values())
    return [
        row
        if row.drop is None or row.model not in float_scores
        else dataclasses.replace(row, drop=row.drop + 100 * abs(best - float_scores[row.model]))
        for row in rows
    ]


def arranged(rows: Sequence[Row]) -> list[Row]:
    """Mark the front, and return its rows first, then other measured ones, then the rest.

    Of several trials that made the same file only the first is on the front.
    """
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        if row.result is not None:
            first.setdefault(row.sha256, index)
    compared = sorted(first.values())
    on_front = {compared[index] for index in front([_costs(rows[at]) for at in compared])}
    marked = [dataclasses.replace(row, on_front=index in on_front) for index, row in enumerate(rows)]
    return sorted(marked, key=lambda row: (not row.on_front, row.latency_ms is None, row.latency_ms or 0.0))


FRONT: Final = "* on the front: nothing beats it in {}, compressed size and latency at once"
"""What the mark says; of quality by the metric's name."""

COLUMNS: Final = ("", "model", "trial", "quality", "drop", "size", "compressed", "latency", "note")
NUMBERS: Final = COLUMNS[3:8]
"""The columns that are aligned to the right."""


def headings(metric: Metric) -> dict[str, str]:
    """Return the column of each heading, which is its name but for the metric's."""
    return {metric.name if name == "quality" else name: name for name in COLUMNS}


def cells(row: Row, metric: Metric) -> tuple[str, ...]:
    """Return a row's cells for COLUMNS; the column `quality` holds the score, or agreement without labels."""
    shown = row.agreement if row.score is None else row.score
    mark = ("*" if row.on_front else " ") + (">" if row.picked else "")
    trial = f"{row.trial} ({', '.join(row.architectures)})" if row.architectures else row.trial
    return (
        mark.rstrip(),
        row.model,
        trial,
        "-" if shown is None else metric.text(shown),
        "-" if row.drop is None else points(row.drop),
        "-" if row.size_bytes is None else size(row.size_bytes),
        "-" if row.transfer_bytes in (None, row.size_bytes) else size(row.transfer_bytes),
        "-" if row.latency_ms is None else milliseconds(row.latency_ms),
        row.reason,
    )


def _costs(row: Row) -> Point:
    result = row.result
    assert result is not None
    return (-result.quality, result.size_bytes, result.latency_ms)
