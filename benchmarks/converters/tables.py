"""A case's results as a table, for a terminal and for docs/converters.md."""

from collections.abc import Sequence

from benchmarks.converters.building import FLOAT
from benchmarks.converters.measuring import Line
from benchmarks.converters.results import Result, Row, targets

COLUMNS = ("variant", "engine", "n", "score", "lost", "size", "compressed", "latency", "memory", "")
_WORDS = (0, 1, len(COLUMNS) - 1)
"""Columns of words, which stand on the left."""


def cells(result: Result) -> list[tuple[str, ...]]:
    """Return the rows of a case's table, for COLUMNS; the last cell says what is odd about one."""
    return [_cells(result, line) for line in result.lines]


def _cells(result: Result, line: Line) -> tuple[str, ...]:
    base = result.line(line.format, FLOAT, line.runtime) or line
    faster = result.faster(line)
    return (
        f"{line.format} {line.variant}",
        line.runtime,
        str(len(line.score)),
        _shown(line.mean_score, "{:.2f}"),
        "" if line.variant == FLOAT else _shown(line.lost, "{:+.2f}"),
        _size(line.size_bytes, base.size_bytes, is_base=line is base),
        _size(line.compressed_bytes, base.compressed_bytes, is_base=line is base),
        _shown(line.latency_ms, "{:.3f} ms")
        + ("" if line is base or not faster else f" ({faster:.1f}x faster)"),
        _shown(line.memory_bytes and line.memory_bytes / 1e6, "{:.1f} MB"),
        line.failure or line.note,
    )


def _size(size: int, base: int, *, is_base: bool) -> str:
    return f"{size / 1000:,.0f} kB" + ("" if is_base else f" ({size / base:.3f}x)")


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def text(result: Result) -> str:
    """Return a case's table, what was not made, and its targets, for a terminal."""
    table = [COLUMNS, *cells(result)]
    widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
    out = [f"\n{result.case.name} ({result.case.metric})"]
    for row in table:
        out += ["  ".join(_aligned(cell, widths[at], at) for at, cell in enumerate(row)).rstrip()]
    out += [f"not made: {one.format} {one.variant}: {one.reason}" for one in result.refused]
    return "\n".join([*out, *(_target_text(row) for row in targets(result))])


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in _WORDS else cell.rjust(width)


def _target_text(row: Row) -> str:
    value = "not measured" if row["value"] is None else f"{row['value']:g} {row['unit']}"
    if row["target"] is None:
        return f"{row['name']}: {value}"
    return f"{row['name']}: {value}, target {row['target']:g}: {'met' if row['met'] else 'NOT MET'}"


def markdown(results: Sequence[Result]) -> str:
    """Return all tables, and then all targets, for docs/converters.md."""
    out = [line for result in results for line in _section(result)]
    found = [row for result in results for row in targets(result)]
    if found:
        out += ["### Targets", "", _pipes(("figure", "measured", "target", "")), "|---|---:|---:|---|"]
        out += [_pipes(_target_cells(row)) for row in found]
    return "\n".join([*out, ""])


def _section(result: Result) -> list[str]:
    out = [f"### {result.case.name}", "", f"Score: {result.case.metric}, in points of 100.", ""]
    out += [_pipes(COLUMNS), _pipes([("---" if at in _WORDS else "---:") for at in range(len(COLUMNS))])]
    out += [_pipes(row) for row in cells(result)]
    if result.refused:
        out += ["", *(f"- Not made: {one.format} {one.variant}: {one.reason}" for one in result.refused)]
    return [*out, ""]


def _target_cells(row: Row) -> tuple[str, ...]:
    value = "not measured" if row["value"] is None else f"{row['value']:g} {row['unit']}"
    verdict = {None: "", True: "met", False: "**missed**"}[row["met"]]  # type: ignore[index]
    return (str(row["name"]), value, "" if row["target"] is None else f"{row['target']:g}", verdict)


def _pipes(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"
