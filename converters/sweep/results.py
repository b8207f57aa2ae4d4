"""What a sweep found: a row for each variant or failed trial, as a table or JSON."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from converters.report import size
from converters.sweep.pareto import Point, front
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
    accuracy: float | None = None
    agreement: float | None = None
    drop: float | None = None
    """Points of accuracy less than the most accurate float model of the sweep, or without labels of agreement
    with its own float model."""
    latency_ms: float | None = None
    reason: str = ""
    """Why there is nothing, or why it was not measured."""
    on_front: bool = False
    picked: bool = False

    @property
    def quality(self) -> float | None:
        """Accuracy, or agreement without labels."""
        return self.agreement if self.accuracy is None else self.accuracy

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
    metric: str
    """`accuracy` or `agreement`."""
    pick: str = ""
    package: Path | None = None
    """Where the picked version was packaged."""

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
            "metric": self.metric,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "pick": self.pick,
            "picked": None if picked is None else {"model": picked.model, "trial": picked.trial},
            "package": None if self.package is None else str(self.package),
        }


def judged(rows: Sequence[Row], float_accuracy: float | None) -> list[Row]:
    """Return the rows with their drops; `float_accuracy` is that of the most accurate float model."""
    found = []
    for row in rows:
        lost = None
        if row.accuracy is not None and float_accuracy is not None:
            lost = 100 * (float_accuracy - row.accuracy)
        elif row.agreement is not None:
            lost = 100 * (1 - row.agreement)
        found.append(dataclasses.replace(row, drop=lost))
    return found


def arranged(rows: Sequence[Row]) -> list[Row]:
    """Mark the front, and return its rows first, then other measured ones, then the rest.

    Of several trials that made the same file only the first is on the front.
    """
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        if row.result is not None:
            first.setdefault(row.sha256, index)
    compared = sorted(first.values())
    on_front = {compared[index] for index in front([_point(rows[at]) for at in compared])}
    marked = [dataclasses.replace(row, on_front=index in on_front) for index, row in enumerate(rows)]
    return sorted(marked, key=lambda row: (not row.on_front, row.latency_ms is None, row.latency_ms or 0.0))


COLUMNS: Final = ("", "model", "trial", "quality", "drop", "size", "compressed", "latency", "note")
NUMBERS: Final = COLUMNS[3:8]
"""The columns that are aligned to the right."""


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's cells for COLUMNS; the column `quality` holds what the sweep's metric is."""
    mark = ("*" if row.on_front else " ") + (">" if row.picked else "")
    trial = f"{row.trial} ({', '.join(row.architectures)})" if row.architectures else row.trial
    return (
        mark.rstrip(),
        row.model,
        trial,
        "-" if row.quality is None else f"{100 * row.quality:.2f} %",
        "-" if row.drop is None else f"{row.drop + 0.0:.2f} pt",
        "-" if row.size_bytes is None else size(row.size_bytes),
        "-" if row.transfer_bytes in (None, row.size_bytes) else size(row.transfer_bytes),
        "-" if row.latency_ms is None else f"{row.latency_ms:.2f} ms",
        row.reason,
    )


def _point(row: Row) -> Point:
    result = row.result
    assert result is not None
    return Point(result.quality, result.size_bytes, result.latency_ms)
