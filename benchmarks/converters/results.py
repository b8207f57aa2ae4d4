"""From measured lines to figures with their targets, and to tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.converters.building import FLOAT, PRUNED_SHARE, Refused
from benchmarks.converters.measuring import REFERENCE, Line
from benchmarks.converters.subjects import PRUNED, SEARCH, Case

SIZE = 0.27
LOST = 0.5
FASTER = 2.0
PRUNED_SIZE = 0.11
SEARCH_FROM = 2.0
SEARCH_TO = 1.0
TORCH = "torch's quantize_dynamic"

Row = dict[str, object]


@dataclass(frozen=True)
class Result:
    """Everything that was found out about one case."""

    case: Case
    lines: Sequence[Line]
    refused: Sequence[Refused]

    def line(self, form: str, variant: str, runtime: str | None = None) -> Line | None:
        wanted = (form, runtime or REFERENCE.get(form, form), variant)
        return next((one for one in self.lines if (one.format, one.runtime, one.variant) == wanted), None)

    def lost(self, line: Line) -> float | None:
        """Return the points that a line lost against the float model in its own format."""
        form = "onnx" if line.format == "torch" else line.format
        base = self.line(form, FLOAT)
        if base is None or base.mean_score is None or line.mean_score is None:
            return None
        return base.mean_score - line.mean_score


def rows(result: Result) -> list[Row]:
    """Return every figure, and then the ratios that have targets."""
    found = [row for line in result.lines for row in _figures(result, line)]
    return found + targets(result)


def targets(result: Result) -> list[Row]:
    """Return the ratios that have targets; one that could not be measured is not met."""
    found: list[Row] = []
    checks = result.case.checks
    for form in result.case.formats:
        base = result.line(form, FLOAT)
        if base is not None:
            if "int8" in checks:
                found += _int8(result, form, base)
            if "speed" in checks:
                found += _speed(result, form, base)
            if "pruned" in checks:
                found += _pruned(result, form, base)
            if "search" in checks:
                found += _search(result, form)
    return found + (_torch(result) if "torch" in checks else [])


def _int8(result: Result, form: str, base: Line) -> list[Row]:
    line, name = result.line(form, "int8"), f"{result.case.name}: {form} int8"
    size = None if line is None else line.size_bytes / base.size_bytes
    return [
        at_most(f"{name}: size", size, "x of float", SIZE),
        at_most(f"{name}: lost", _lost(result, line), "points", LOST),
    ]


def _speed(result: Result, form: str, base: Line) -> list[Row]:
    line = result.line(form, "int8")
    faster = _ratio(base.median_latency_ms, line and line.median_latency_ms)
    return [at_least(f"{result.case.name}: {form} int8: faster", faster, "x", FASTER)]


def _pruned(result: Result, form: str, base: Line) -> list[Row]:
    line, name = result.line(form, PRUNED), f"{result.case.name}: {form} {PRUNED_SHARE:.0%} {PRUNED}"
    size = None if line is None else line.compressed_bytes / base.compressed_bytes
    return [
        at_most(f"{name}: compressed size", size, "x of float, compressed", PRUNED_SIZE),
        at_most(f"{name}: lost", _lost(result, line), "points", LOST),
    ]


def _search(result: Result, form: str) -> list[Row]:
    plain, searched = (_lost(result, result.line(form, variant)) for variant in ("int8", SEARCH))
    name = f"{result.case.name}: {form}"
    return [
        at_least(f"{name} int8: lost without the search", plain, "points", SEARCH_FROM),
        at_most(f"{name} {SEARCH}: lost", searched, "points", SEARCH_TO),
    ]


def _torch(result: Result) -> list[Row]:
    ours, theirs = result.line("onnx", "dynamic"), result.line("torch", TORCH, "torch")
    if ours is None or theirs is None or ours.mean_score is None or theirs.mean_score is None:
        return [at_most(f"{result.case.name}: onnx dynamic beside torch's", None, "", 0.0)]
    name = f"{result.case.name}: onnx dynamic beside torch's"
    latency = _ratio(ours.median_latency_ms, theirs.median_latency_ms)
    return [
        at_most(f"{name}: points fewer", theirs.mean_score - ours.mean_score, "points", 0.0),
        at_most(f"{name}: size", ours.size_bytes / theirs.size_bytes, "x", 1.0),
        at_most(f"{name}: latency", latency, "x", 1.0),
    ]


def _lost(result: Result, line: Line | None) -> float | None:
    return None if line is None else result.lost(line)


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None


def _figures(result: Result, line: Line) -> list[Row]:
    name = f"{result.case.name}: {line.format} {line.variant} on {line.runtime}"
    memory = line.memory_bytes[0] / 1e6 if line.memory_bytes else None
    return [
        _plain(f"{name}: {result.case.metric}", line.mean_score, "points"),
        _plain(f"{name}: size", line.size_bytes, "bytes"),
        _plain(f"{name}: compressed", line.compressed_bytes, "bytes"),
        _plain(f"{name}: latency", line.median_latency_ms, "ms"),
        _plain(f"{name}: memory added", memory, "MB"),
    ]


def at_most(name: str, value: float | None, unit: str, target: float) -> Row:
    # Means of shares are off by some 1e-14.
    return _plain(name, value, unit) | {"target": target, "met": value is not None and value <= target + 1e-9}


def at_least(name: str, value: float | None, unit: str, target: float) -> Row:
    return _plain(name, value, unit) | {"target": target, "met": value is not None and value >= target - 1e-9}


def _plain(name: str, value: float | None, unit: str) -> Row:
    return {
        "name": name,
        "value": None if value is None else round(value, 4),
        "unit": unit,
        "target": None,
        "met": None,
    }


COLUMNS = (
    "variant",
    "engine",
    "score",
    "lost",
    "size",
    "of float",
    "compressed",
    "latency",
    "faster",
    "memory",
    "",
)


def cells(result: Result) -> list[tuple[str, ...]]:
    """Return the rows of a case's table, for COLUMNS; the last cell says what is odd about one."""
    return [_cells(result, line) for line in result.lines]


def _cells(result: Result, line: Line) -> tuple[str, ...]:
    form = "onnx" if line.format == "torch" else line.format
    base = result.line(form, FLOAT, "onnxruntime" if line.format == "torch" else line.runtime) or line
    lost, latency = result.lost(line), line.median_latency_ms
    faster = _ratio(base.median_latency_ms, latency)
    return (
        f"{line.format} {line.variant}",
        line.runtime,
        _shown(line.mean_score, "{:.2f}"),
        _shown(lost, "{:+.2f}"),
        f"{line.size_bytes / 1000:.0f} kB",
        f"{line.size_bytes / base.size_bytes:.3f}",
        f"{line.compressed_bytes / 1000:.0f} kB",
        _shown(latency, "{:.3f} ms"),
        _shown(faster, "{:.1f}x"),
        _shown(line.memory_bytes[0] / 1e6 if line.memory_bytes else None, "{:.0f} MB"),
        line.failure or ("" if line.offered else "not offered to it"),
    )


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
    out += [_target_text(row) for row in targets(result)]
    return "\n".join(out)


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 or column == len(COLUMNS) - 1 else cell.rjust(width)


def _target_text(row: Row) -> str:
    value = "not measured" if row["value"] is None else f"{row['value']:g} {row['unit']}"
    return f"{row['name']}: {value}, target {row['target']:g}: {'met' if row['met'] else 'NOT MET'}"


def markdown(result: Result) -> str:
    """Return a case's table and targets for docs/converters.md."""
    out = [f"### {result.case.name}", "", f"Score: {result.case.metric}, in points of 100.", ""]
    out += [_pipes(COLUMNS), _pipes(("---", "---", *("---:",) * (len(COLUMNS) - 3), "---"))]
    out += [_pipes(row) for row in cells(result)]
    if result.refused:
        out += ["", *(f"- Not made: {one.format} {one.variant}: {one.reason}" for one in result.refused)]
    found = targets(result)
    if found:
        out += ["", _pipes(("figure", "measured", "target", "")), _pipes(("---", "---:", "---:", "---"))]
        out += [_pipes(_target_cells(row)) for row in found]
    return "\n".join([*out, ""])


def _target_cells(row: Row) -> tuple[str, ...]:
    value = "not measured" if row["value"] is None else f"{row['value']:g} {row['unit']}"
    return (str(row["name"]), value, f"{row['target']:g}", "met" if row["met"] else "**not met**")


def _pipes(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"
