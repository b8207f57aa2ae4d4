"""How much may be fetched in a period, a day or month of the calendar. Pure: time and zone are an argument."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

Period = Literal["day", "month"]

KEPT_PERIODS: Final = 4
"""Periods that are remembered: a clock that is wrong for a while must not make the others' use forgotten."""
_LEASE_SHARE: Final = 64
_MIN_LEASE_BYTES: Final = 64 * 2**10
_MAX_LEASE_BYTES: Final = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Budget:
    """A number of bytes for each period."""

    limit_bytes: int
    period: Period

    @property
    def lease_bytes(self) -> int:
        """How much is noted ahead of its use, so that a crash loses no count and few writes are needed."""
        return min(max(self.limit_bytes // _LEASE_SHARE, _MIN_LEASE_BYTES), _MAX_LEASE_BYTES)

    @property
    def words(self) -> str:
        """The budget for a person."""
        return f"{self.limit_bytes / 2**20:.4g} MiB a {self.period}"


def name_of(period: Period, now: datetime) -> str:
    """Return the name of the period that holds `now`, by its own time zone: `2026-11-25` or `2026-11`."""
    return now.strftime("%Y-%m-%d" if period == "day" else "%Y-%m")


def end_of(period: Period, now: datetime) -> datetime:
    """Return when the period that holds `now` ends: a midnight of the same time zone."""
    year, month, day = now.year, now.month, now.day
    if period == "day":
        # By the date, since a day may have 23 or 25 hours; every month has a first.
        following = datetime.fromordinal(now.date().toordinal() + 1)
        return following.replace(tzinfo=now.tzinfo)
    year, month, day = (year + 1, 1, 1) if month == 12 else (year, month + 1, 1)
    return datetime(year, month, day, tzinfo=now.tzinfo)


def with_used(used: Mapping[str, int], name: str, size_bytes: int) -> dict[str, int]:
    """Return what was used by period, with that of `name` set, and of the others only the latest kept."""
    others = [(other, size) for other, size in used.items() if other != name]
    return {**dict(others[-KEPT_PERIODS + 1 :]), name: size_bytes}
