"""The tables of the page."""

import re
from collections.abc import Sequence
from typing import Final

from converters.report.markup import element, heading_row, number_cell, prose_cell, row_heading, table
from converters.report.model import Report, VariantRow
from converters.report.text import milliseconds, points, size

_NOTHING: Final = "\u2013"
_TIMED: Final = re.compile(r"a run takes [\d.,]+ ms")
"""How the gate words a latency; see `converters.checks.gate`."""


def variants(report: Report) -> str:
    """Return the table of all variants with the gate's verdict on each."""
    numbers = _numbers(report)
    names = ["variant", "gate", *numbers, "runs on"]
    rows = [_variant(row, report, numbers) for row in report.rows]
    return table("All variants", heading_row(names, numbers), rows)


def runtimes(report: Report) -> str:
    """Return the table of latency and memory by runtime, or nothing where there is one runtime a variant."""
    if all(len(row.latencies_ms) < 2 for row in report.rows):
        return ""
    rows = [
        f"<tr>{row_heading(row.label)}{prose_cell(runtime)}"
        f"{number_cell(milliseconds(latency))}{number_cell(_size(row.memories_bytes.get(runtime)))}</tr>"
        for row in report.rows
        for runtime, latency in row.latencies_ms.items()
    ]
    names = ["variant", "runtime", "latency", "memory"]
    inner = table("Latency and memory on each runtime of this host", heading_row(names, names[2:]), rows)
    return f"<details><summary>On each runtime</summary>{inner}</details>\n"


def making(report: Report) -> str:
    """Return the table of how each variant was made and how far its golden answers are off."""
    rows = [
        f"<tr>{row_heading(row.label)}{prose_cell(row.method or _NOTHING)}"
        f"{prose_cell(_names(row.excluded))}"
        f"{prose_cell(_errors(row))}</tr>"
        for row in report.rows
        if row.method or row.excluded or row.max_error
    ]
    if not rows:
        return ""
    names = ["variant", "made by", "layers kept in float", "largest golden error"]
    inner = table("How each was made, and how far it is from the float model", heading_row(names, ()), rows)
    return f"<details><summary>How each was made</summary>{inner}</details>\n"


def search(report: Report) -> str:
    """Return the table of the search for layers to keep in float, or nothing without one."""
    if not report.search:
        return ""
    rows = [
        f"<tr>{number_cell(str(len(step.kept)))}{number_cell(points(step.drop))}"
        f"{prose_cell(_names(step.kept))}</tr>"
        for step in report.search
    ]
    names = ["kept", "points lost", "layers in float"]
    return table("The search for layers to keep in float", heading_row(names, names[:2]), rows)


def _numbers(report: Report) -> list[str]:
    """Return the columns of figures that some variant has."""
    rows = report.rows
    known = {
        "size": True,
        "ratio": True,
        "download": any(row.compressed_bytes is not None for row in rows),
        "latency": any(row.latency_ms is not None for row in rows),
        "memory": any(row.memory_bytes is not None for row in rows),
        report.metric.name: any(row.score is not None for row in rows),
        "drop": any(row.drop is not None for row in rows),
        "agreement": any(row.agreement is not None for row in rows),
    }
    return [name for name, is_known in known.items() if is_known]


def _variant(row: VariantRow, report: Report, numbers: list[str]) -> str:
    ratio = None if row.size_bytes is None else row.size_bytes / max(1, report.source_bytes)
    cells = {
        "size": _size(row.size_bytes),
        "ratio": _NOTHING if ratio is None else f"{ratio:.2f}x",
        "download": _size(row.travel_bytes),
        "latency": _NOTHING if row.latency_ms is None else milliseconds(row.latency_ms),
        "memory": _size(row.memory_bytes),
        "agreement": _NOTHING if row.agreement is None else f"{100 * row.agreement:.2f} %",
        report.metric.name: _NOTHING if row.score is None else report.metric.text(row.score),
        "drop": _NOTHING if row.drop is None else points(row.drop),
    }
    kind, verdict = ("good", "passed") if row.packaged else ("bad", "left out")
    reason = _timeless(row) if row.latency_ms is None else row.reason
    style = f"{'' if row.packaged else 'left-out '}{'explained' if reason else ''}".strip()
    line = (
        f'<tr class="{style}">{row_heading(row.label)}<td><span class="badge {kind}">{verdict}</span></td>'
        + "".join(number_cell(cells[name]) for name in numbers)
        + prose_cell(_runtimes(row))
        + "</tr>"
    )
    if not reason:
        return line
    return f'{line}\n<tr class="why"><td colspan="{len(numbers) + 3}">{element("div", reason)}</td></tr>'


def _runtimes(row: VariantRow) -> str:
    # A hyphen at which no line breaks.
    return ", ".join(row.runtimes).replace("-", "\u2011") if row.packaged else _NOTHING


def _timeless(row: VariantRow) -> str:
    """Return the reason without the latency that a page without times must not show."""
    return _TIMED.sub("a run takes too long", row.reason)


def _errors(row: VariantRow) -> str:
    errors = row.max_error or {}
    return ", ".join(f"{name} {error:.3g}" for name, error in errors.items()) or _NOTHING


def _size(count: int | None) -> str:
    return _NOTHING if count is None else size(count)


def _names(layers: Sequence[str]) -> str:
    return ", ".join(layers) or _NOTHING
