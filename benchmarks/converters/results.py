"""From measured lines to figures with their targets."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.converters import eager
from benchmarks.converters.building import FLOAT, PRUNED_SHARE, Refused
from benchmarks.converters.measuring import REFERENCE, Line
from benchmarks.converters.subjects import PRUNED, SEARCH, Case

SIZE = 0.27
LOST = 0.5
FASTER = 2.0
PRUNED_SIZE = 0.11
SEARCH_FROM = 2.0
SEARCH_TO = 1.0

Row = dict[str, object]


@dataclass(frozen=True)
class Result:
    """Everything that was found out about one case."""

    case: Case
    lines: Sequence[Line]
    refused: Sequence[Refused]
    seeds: int

    def line(self, form: str, variant: str, runtime: str | None = None) -> Line | None:
        wanted = (form, runtime or REFERENCE.get(form, eager.RUNTIME), variant)
        return next((one for one in self.lines if (one.format, one.runtime, one.variant) == wanted), None)

    def faster(self, line: Line) -> float | None:
        """Return how much faster a line is than the float model on the same runtime."""
        base = self.line(line.format, FLOAT, line.runtime)
        return ratio(base.latency_ms if base else None, line.latency_ms)


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
                found += _speed(result, form)
            if "pruned" in checks:
                found += _pruned(result, form, base)
            if "search" in checks:
                found += _search(result, form)
    return found + (_torch(result) if "torch" in checks else [])


def _int8(result: Result, form: str, base: Line) -> list[Row]:
    line, name = result.line(form, "int8"), f"{result.case.name}: {form} int8"
    return [
        at_most(f"{name}: size", line.size_bytes / base.size_bytes if line else None, "x of float", SIZE),
        at_most(f"{name}: lost", _lost(line), "points", LOST),
    ]


def _speed(result: Result, form: str) -> list[Row]:
    line = result.line(form, "int8")
    faster = None if line is None else result.faster(line)
    return [at_least(f"{result.case.name}: {form} int8: faster", faster, "x", FASTER)]


def _pruned(result: Result, form: str, base: Line) -> list[Row]:
    line, name = result.line(form, PRUNED), f"{result.case.name}: {form} {PRUNED_SHARE:.0%} {PRUNED}"
    share = line.compressed_bytes / base.compressed_bytes if line else None
    plain = line.compressed_bytes / base.size_bytes if line else None
    return [
        at_most(f"{name}: compressed size", share, "x of float, compressed", PRUNED_SIZE),
        figure(f"{name}: compressed size", plain, "x of float, not compressed"),
        at_most(f"{name}: lost", _lost(line), "points", LOST),
    ]


def _search(result: Result, form: str) -> list[Row]:
    plain, searched = (result.line(form, variant) for variant in ("int8", SEARCH))
    name = f"{result.case.name}: {form}"
    return [
        at_least(f"{name} int8: lost without the search", _lost(plain), "points", SEARCH_FROM),
        at_most(f"{name} {SEARCH}: lost", _lost(searched), "points", SEARCH_TO),
    ]


def _torch(result: Result) -> list[Row]:
    ours, theirs = result.line("onnx", "dynamic"), result.line(eager.FORMAT, eager.QUANTIZED)
    name = f"{result.case.name}: onnx dynamic beside torch's"
    if ours is None or theirs is None or ours.mean_score is None or theirs.mean_score is None:
        return [at_most(name, None, "", 0.0)]
    return [
        at_most(f"{name}: points fewer", theirs.mean_score - ours.mean_score, "points", 0.0),
        at_most(f"{name}: size", ours.size_bytes / theirs.size_bytes, "x", 1.0),
        at_most(f"{name}: latency", ratio(ours.latency_ms, theirs.latency_ms), "x", 1.0),
    ]


def _lost(line: Line | None) -> float | None:
    return None if line is None else line.lost


def ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None


def _figures(result: Result, line: Line) -> list[Row]:
    name = f"{result.case.name}: {line.format} {line.variant} on {line.runtime}"
    return [
        figure(f"{name}: {result.case.metric}", line.mean_score, f"points, mean of {len(line.score)}"),
        figure(f"{name}: lost", line.lost, "points"),
        figure(f"{name}: size", line.size_bytes, "bytes"),
        figure(f"{name}: compressed", line.compressed_bytes, "bytes"),
        figure(f"{name}: latency", line.latency_ms, "ms"),
        figure(f"{name}: memory added", line.memory_bytes and line.memory_bytes / 1e6, "MB"),
    ]


def at_most(name: str, value: float | None, unit: str, target: float) -> Row:
    # Means of shares are off by some 1e-14.
    return figure(name, value, unit) | {"target": target, "met": value is not None and value <= target + 1e-9}


def at_least(name: str, value: float | None, unit: str, target: float) -> Row:
    return figure(name, value, unit) | {"target": target, "met": value is not None and value >= target - 1e-9}


def figure(name: str, value: float | None, unit: str) -> Row:
    shown = None if value is None else round(value, 4)
    return {"name": name, "value": shown, "unit": unit, "target": None, "met": None}
