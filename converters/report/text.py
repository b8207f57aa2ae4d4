"""A report's table in plain text: which columns there are and what stands in their cells. Pure."""

from collections.abc import Sequence
from typing import Final

from converters.report.model import Report, VariantRow

WIDTH: Final = 100
"""Columns of characters that a table keeps to."""

GAP: Final = 2
"""Spaces between columns."""

_METRIC: Final = "metric"

NAMES: Final = (
    "variant", "size", "ratio", "download", "latency", "memory", _METRIC, "drop", "agreement", "runs on",
)  # fmt: skip
"""The columns; the metric's is headed by its name."""

_OPTIONAL: Final = ("ratio", "agreement", "memory", "download")
"""Columns that make way in a narrow terminal, the first one first."""

_FLEXIBLE: Final = "runs on"
"""The column that is folded where it does not fit."""


def table(report: Report, width: int = WIDTH) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the headings and a row of cells for each variant, without the columns that say nothing.

    Agreement is left out where it is what the metric says already. Columns that are not essential go until the
    rest fits into `width` characters.
    """
    written = [_cells(row, report) for row in report.rows]
    shown = [
        name
        for name in NAMES
        if any(cells[name] != "-" for cells in written) and not (name == "agreement" and _is_agreement(report))
    ]
    for name in _OPTIONAL:
        if _needed(shown, written, report) <= width:
            break
        shown = [one for one in shown if one != name]
    return (
        tuple(_heading(name, report) for name in shown),
        [tuple(cells[name] for name in shown) for cells in written],
    )


def is_number(heading: str) -> bool:
    """Say whether a column is aligned to the right."""
    return heading not in ("variant", _FLEXIBLE)


def is_flexible(heading: str) -> bool:
    """Say whether a column's cells may be folded."""
    return heading == _FLEXIBLE


def size(count: float) -> str:
    """Return a number of bytes for a person."""
    if count < 1000:
        return f"{count:.0f} B"
    return f"{count / 1000:.0f} kB" if count < 1_000_000 else f"{count / 1_000_000:.2f} MB"


def milliseconds(latency_ms: float) -> str:
    """Return a latency for a person, in three digits."""
    return f"{latency_ms:.3g} ms" if 0.01 <= latency_ms < 1000 else f"{latency_ms:.2f} ms"


def points(drop: float) -> str:
    """Return points lost for a person; what was gained has a plus."""
    rounded = round(drop, 2) + 0.0
    return f"{rounded:.2f}" if rounded >= 0 else f"+{-rounded:.2f}"


def summary(report: Report) -> str:
    """Return one sentence on what was measured on what."""
    count, kind = report.evaluation.get("samples", 0), report.evaluation.get("data", "given")
    own = ""
    if report.float_score is not None:
        own = f"; the source model's {report.metric.name} is {report.metric.text(report.float_score)}"
    return f"Measured on {count} {kind} samples{own}."


def reasons(rows: Sequence[VariantRow]) -> list[str]:
    """Return a sentence for each variant that was left out or is not offered to some runtime."""
    return [
        f"{row.label}: {row.reason}" if row.packaged else f"{row.label} is left out: {row.reason}"
        for row in rows
        if row.reason
    ]


def _cells(row: VariantRow, report: Report) -> dict[str, str]:
    ratio = None if row.size_bytes is None else row.size_bytes / max(1, report.source_bytes)
    return {
        "variant": row.label,
        "size": "-" if row.size_bytes is None else size(row.size_bytes),
        "ratio": "-" if ratio is None else f"{ratio:.2f}x",
        "download": "-" if row.compressed_bytes is None else size(row.compressed_bytes),
        "latency": "-" if row.latency_ms is None else milliseconds(row.latency_ms),
        "memory": "-" if row.memory_bytes is None else size(row.memory_bytes),
        _METRIC: "-" if row.score is None else report.metric.text(row.score),
        "drop": "-" if row.drop is None else points(row.drop),
        "agreement": "-" if row.agreement is None else f"{100 * row.agreement:.2f} %",
        _FLEXIBLE: ", ".join(row.runtimes) if row.packaged else "(left out)",
    }


def _heading(name: str, report: Report) -> str:
    return report.metric.name if name == _METRIC else name


def _is_agreement(report: Report) -> bool:
    return report.metric.name == "agreement" and any(row.score is not None for row in report.rows)


def _needed(shown: Sequence[str], written: Sequence[dict[str, str]], report: Report) -> int:
    """Return the least width of a table: whole cells, but for the words of the one that is folded."""
    widths = []
    for name in shown:
        cells = [cells[name] for cells in written]
        words = [word for cell in cells for word in cell.split(" ")] if name == _FLEXIBLE else cells
        widths.append(max(len(_heading(name, report)), *(len(text) for text in words), 0))
    return sum(widths) + GAP * (len(widths) - 1)
