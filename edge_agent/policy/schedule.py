"""When maintenance windows are open. Pure: the time and the time zone are arguments."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import reduce
from typing import Final

from edge_agent.documents.windows import DAY_MIN, Window

HORIZON_DAYS: Final = 15
"""How far ahead is looked: every window comes once a week, so that what is not met by then never is."""

Span = tuple[float, float]
"""From, and before; Unix time in seconds."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Windows by the clock of a time zone; at least one."""

    windows: tuple[Window, ...]
    zone: tzinfo


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether all schedules are open; Unix times, None where that never comes."""

    is_open: bool
    opens_s: float | None
    """When they are open next; now, where they are."""
    closes_s: float | None
    """When they close after that."""


ALWAYS: Final = Opening(is_open=True, opens_s=None, closes_s=None)


def opening(schedules: Sequence[Schedule], now: datetime) -> Opening:
    """Say whether all schedules are open at `now`, which is aware of its time zone, and when that changes."""
    if not schedules:
        return ALWAYS
    now_s = now.timestamp()
    last_s = now_s + (HORIZON_DAYS - 1) * 86_400
    common = reduce(_both, (_merged(_spans(schedule, now)) for schedule in schedules))
    start_s, end_s = next((span for span in common if now_s < span[1]), (last_s, last_s))
    closes_s = end_s if end_s < last_s else None
    if start_s >= last_s:
        return Opening(is_open=False, opens_s=None, closes_s=None)
    return Opening(start_s <= now_s, max(start_s, now_s), closes_s)


def _spans(schedule: Schedule, now: datetime) -> Iterator[Span]:
    """Yield when the windows are open, from those that began yesterday on."""
    today = now.astimezone(schedule.zone).date()
    for days in range(-1, HORIZON_DAYS + 1):
        day = today + timedelta(days=days)
        for window in schedule.windows:
            if day.weekday() in window.days:
                yield _span(day, window, schedule.zone)


def _span(day: date, window: Window, zone: tzinfo) -> Span:
    """Return when a window that begins on `day` is open.

    A time that the clock skips is as much later as it skips. Where that would leave nothing of the window, it
    keeps its length; a time that comes twice means the first.
    """
    start_s = _unix_s(day, window.start_min, zone)
    end_s = _unix_s(day, window.start_min + window.length_min, zone)
    return (start_s, end_s) if end_s > start_s else (start_s, start_s + window.length_min * 60)


def _unix_s(day: date, minutes: int, zone: tzinfo) -> float:
    days, rest = divmod(minutes, DAY_MIN)
    local = datetime.combine(day + timedelta(days=days), time(rest // 60, rest % 60), zone)
    return local.astimezone(UTC).timestamp()


def _merged(spans: Iterator[Span]) -> list[Span]:
    """Join those that meet or overlap."""
    merged: list[Span] = []
    for start_s, end_s in sorted(spans):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_s))
        else:
            merged.append((start_s, end_s))
    return merged


def _both(ones: list[Span], others: list[Span]) -> list[Span]:
    """Return when one of each is open."""
    pairs = [(max(a, c), min(b, d)) for a, b in ones for c, d in others]
    return [(start_s, end_s) for start_s, end_s in pairs if start_s < end_s]
