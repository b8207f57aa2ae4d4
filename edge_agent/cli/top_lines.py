"""The lines that `edge-agent top` shows: as many as the height takes, each as long as the width takes. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from edge_agent.cli.figures import Figures, VersionFigures
from edge_agent.cli.output import duration, moment, size
from edge_agent.cli.report import sync_sentence

_GAP: Final = "  "
_NONE: Final = "-"
_MAX_PROBLEMS: Final = 4
_BAD_STATES: Final = ("quarantined", "left_out")


@dataclass(frozen=True, slots=True)
class Line:
    """One line, and the style of all of it."""

    text: str
    style: str | None = None


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cell: Callable[[VersionFigures], str]
    rank: int
    """Columns of higher rank go first where the terminal is narrow."""
    is_number: bool = True


def lines(figures: Figures, width: int | None = None, height: int | None = None) -> list[Line]:
    """Return the view; without a width or height it takes what it needs."""
    head = [*_head(figures)]
    problems = [*_problems(figures)]
    if height is not None and len(problems) > (most := min(_MAX_PROBLEMS, max(1, height // 4))):
        left = len(problems) - most + 1
        problems = [*problems[: most - 1], Line(f"… {left} more problems; see 'edge-agent status'", "yellow")]
    view = [*head, *problems, Line("")]
    room = None if height is None else height - len(view)
    view += _table(figures.versions, width, room)
    return [Line(clipped(line.text, width), line.style) for line in view[:height]]


def clipped(text: str, width: int | None) -> str:
    """Return a line of printable characters, and not more of them than the width takes."""
    plain = "".join(character if character.isprintable() else "?" for character in text)
    if width is None or len(plain) <= width:
        return plain
    return f"{plain[: max(0, width - 1)]}…"[:width]


def rate(value: float | None) -> str:
    """Return a rate for a person, in three digits, or what stands for none."""
    if value is None:
        return _NONE
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"


def milliseconds(value: float | None) -> str:
    """Return a duration for a person, with its unit."""
    if value is None:
        return _NONE
    if value >= 1000:
        return f"{value / 1000:.2f} s"
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def share(value: float | None) -> str:
    """Return a share for a person, in percent."""
    return _NONE if value is None else f"{100 * value:.0f}%"


def _head(figures: Figures) -> Iterator[Line]:
    status = figures.status
    who = f"Device {status.reported.device}" if status else "Edge Agent"
    version = figures.agent_version or (status and status.reported.agent_version)
    about = [who, *([f"agent {version}"] if version else ()), moment(figures.time_s)]
    if status:
        about.insert(2, f"up {duration(status.process.uptime_s)}")
    yield Line(", ".join(about), "bold")
    yield Line(_traffic(figures))
    if figures.cache is not None:
        yield Line(_cache(figures))
    yield Line(_memory(figures))
    updates = [*_updates(figures)]
    if updates:
        yield Line("Updates   " + "; ".join(updates))


def _traffic(figures: Figures) -> str:
    if figures.serving_problem:
        return "Requests  -"
    since = "" if figures.interval_s is None else f", over {figures.interval_s:.3g} s"
    return (
        f"Requests  {rate(figures.requests_per_s)}/s, errors {rate(figures.errors_per_s)}/s, "
        f"{figures.in_flight or 0} running{since}"
    )


def _cache(figures: Figures) -> str:
    cache = figures.cache
    if cache is None or not cache.max_bytes:
        return "Cache     off"
    return (
        f"Cache     {share(cache.hit_rate)} hits, {size(cache.bytes)} of {size(cache.max_bytes)}, "
        f"{cache.entries} results, {rate(cache.evictions_per_s)}/s made room"
    )


def _memory(figures: Figures) -> str:
    parts = []
    if figures.serving_bytes is not None:
        up = "" if figures.serving_up_s is None else f" (up {duration(figures.serving_up_s)})"
        parts.append(f"serving {size(figures.serving_bytes)}{up}")
    if figures.supervisor_bytes is not None:
        parts.append(f"supervisor {size(figures.supervisor_bytes)}")
    return f"Memory    {', '.join(parts) or _NONE}"


def _updates(figures: Figures) -> Iterator[str]:
    status = figures.status
    if status is not None:
        reported = status.reported
        yield f"serial {reported.serial}" if reported.plan_id else "no plan yet"
        if reported.target_serial is not None:
            yield f"serial {reported.target_serial} is not active"
        yield f"store {sync_sentence(reported.sync, figures.time_s)}"
        yield from (wait.message for wait in reported.waits)
    state = status.link.state if status else {None: "off", True: "up", False: "down"}[figures.link_up]
    if state != "off":
        waiting = figures.outbox_events or (status.link.outbox_events if status else 0)
        yield f"fleet link {state}" + (f", {waiting} events wait" if waiting else "")


def _problems(figures: Figures) -> Iterator[Line]:
    if figures.serving_problem:
        yield Line(figures.serving_problem, "red")
    if figures.admin_problem:
        yield Line(figures.admin_problem, "yellow")
    if figures.status is not None:
        restarts = figures.status.process.restarts
        if restarts:
            yield Line(f"Serving was restarted {restarts} time{'s' * (restarts > 1)}.", "yellow")
        yield from (Line(problem, "yellow") for problem in figures.status.reported.problems)
    for version in figures.versions:
        if version.reason:
            yield Line(f"{version.model} {version.version}: {version.reason}", "yellow")


_COLUMNS: Final = (
    _Column("MODEL", lambda one: one.model, 0, is_number=False),
    _Column("VERSION", lambda one: one.version, 2, is_number=False),
    _Column("STATE", lambda one: one.state, 5, is_number=False),
    _Column("TRAFFIC", lambda one: share(one.traffic), 8),
    _Column("REQ/S", lambda one: rate(one.requests_per_s), 1),
    _Column("ERR/S", lambda one: rate(one.errors_per_s), 4),
    _Column("P50", lambda one: milliseconds(one.p50_ms), 6),
    _Column("P99", lambda one: milliseconds(one.p99_ms), 3),
    _Column("HITS", lambda one: share(one.hit_rate), 7),
    _Column("RUNNING", lambda one: str(one.in_flight), 9),
    _Column("REQUESTS", lambda one: str(one.requests), 10),
    _Column("ENGINE", lambda one: one.engine, 11, is_number=False),
    _Column("ARMS/S", lambda one: _arms(one), 12, is_number=False),
)


def _arms(version: VersionFigures) -> str:
    return ", ".join(f"{arm} {rate(value)}" for arm, value in version.arms_per_s.items()) or _NONE


def _table(versions: Sequence[VersionFigures], width: int | None, room: int | None) -> Iterator[Line]:
    if not versions:
        yield Line("No model is served.")
        return
    shown = versions
    if room is not None and len(versions) + 1 > room:
        shown = versions[: max(0, room - 2)]
    columns = _fitting([(column, [column.cell(one) for one in shown]) for column in _COLUMNS], width)
    yield Line(_row([column.title for column, _ in columns], columns), "bold")
    for index, version in enumerate(shown):
        style = "red" if version.state in _BAD_STATES else "dim" if version.state != "serving" else None
        yield Line(_row([cells[index] for _, cells in columns], columns), style)
    if len(shown) < len(versions):
        yield Line(f"… {len(versions) - len(shown)} more", "dim")


_Cells = tuple[_Column, list[str]]


def _fitting(columns: Sequence[_Cells], width: int | None) -> list[_Cells]:
    """Return the columns that the width has room for, in their order; the model always."""
    kept = list(columns)
    while width is not None and len(kept) > 1 and sum(map(_width, kept)) + len(_GAP) * (len(kept) - 1) > width:
        kept.remove(max(kept, key=lambda cells: cells[0].rank))
    return kept


def _width(cells: _Cells) -> int:
    return max(map(len, (cells[0].title, *cells[1])))


def _row(cells: Sequence[str], columns: Sequence[_Cells]) -> str:
    return _GAP.join(
        cell.rjust(_width(column)) if column[0].is_number else cell.ljust(_width(column))
        for cell, column in zip(cells, columns, strict=True)
    ).rstrip()
