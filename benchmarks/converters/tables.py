"""A case's results as a table, for a terminal and for docs/converters.md."""

from collections.abc import Sequence

from benchmarks.converters.building import FLOAT
from benchmarks.converters.measuring import Line
from benchmarks.converters.results import Result, Row, targets

COLUMNS = ("variant", "engine", "n", "score", "lost", "size", "compressed", "latency", "memory", "")
_SHORT = (
    *("variant", "score float → variant (n)", "lost", "size", "compressed", "latency"),
    *("memory", "on tflite-runtime"),
)
_OTHER = "tflite-runtime"
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
    out += [_pipes(_SHORT), "|---|---:|---:|---:|---:|---:|---:|---|"]
    out += [_pipes(_short(result, line)) for line in result.lines if line.runtime != _OTHER]
    if result.refused:
        out += ["", *(f"- Not made: {one.format} {one.variant}: {_once(one.reason)}" for one in result.refused)]
    return [*out, ""]


def _once(reason: str) -> str:
    """Return a reason without what it says again of the file for another architecture."""
    return "; ".join(dict.fromkeys(reason.split("; ")))


def _short(result: Result, line: Line) -> tuple[str, ...]:
    """Return one row for a variant on all runtimes of its format."""
    _, _, n, score, lost, size, compressed, latency, memory, odd = _cells(result, line)
    base = "" if line.variant == FLOAT else f"{_shown(line.mean_base, '{:.2f}')} → "
    other = result.line(line.format, line.variant, _OTHER)
    name = f"{line.format} {line.variant}" + (f" ({odd})" if odd else "")
    return (name, f"{base}{score} ({n})", lost, size, compressed, latency, memory, _elsewhere(result, other))


def _elsewhere(result: Result, line: Line | None) -> str:
    if line is None:
        return ""
    _, _, _, _, lost, size, _, latency, _, odd = _cells(result, line)
    first = result.line(line.format, line.variant)
    found = [] if latency == "-" else [latency]
    found += [] if lost in ("", "-") else [f"{lost} points"]
    found += [] if first is None or line.size_bytes == first.size_bytes else [f"a file of its own, {size}"]
    return ", ".join([*found, *([odd] if odd else [])])


def _target_cells(row: Row) -> tuple[str, ...]:
    value = "not measured" if row["value"] is None else f"{row['value']:g} {row['unit']}"
    verdict = {None: "", True: "met", False: "**missed**"}[row["met"]]  # type: ignore[index]
    return (str(row["name"]), value, "" if row["target"] is None else f"{row['target']:g}", verdict)


def _pipes(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"
