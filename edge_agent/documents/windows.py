"""Maintenance windows as people write them: `02:00-05:00`, or `mon-fri 22:00-04:00; sat,sun 00:00-24:00 UTC`.

By the clock of the device's own time zone, unless `UTC` stands at the end.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

Zone = Literal["local", "UTC"]
"""Whose clock windows mean; `local` is that of the device's own time zone."""

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MIN: Final = 24 * 60
FORM: Final = "'02:00-05:00' or 'mon-fri 22:00-04:00; sat,sun 00:00-24:00 UTC'"

_WINDOW: Final = re.compile(r"(?:(?P<days>[a-z,-]+)\s+)?(\d\d):(\d\d)\s*-\s*(\d\d):(\d\d)")


@dataclass(frozen=True, slots=True)
class Window:
    """A span of the day, in minutes after midnight, that begins on some days of the week (0 is Monday).

    One whose end is not after its start reaches into the next day.
    """

    days: tuple[int, ...]
    start_min: int
    end_min: int

    @property
    def length_min(self) -> int:
        """How long it lasts on a day whose clock is not changed."""
        return (self.end_min - self.start_min - 1) % DAY_MIN + 1


@dataclass(frozen=True, slots=True)
class Hours:
    """Windows, at least one, and whose clock they mean."""

    windows: tuple[Window, ...]
    zone: Zone


def parse_hours(text: str) -> Hours:
    """Read windows separated by `;`; raises ValueError with what is wrong, as the rest of a sentence."""
    body = text.strip().removesuffix("UTC")
    zone: Zone = "local" if body == text.strip() else "UTC"
    return Hours(tuple(_window(part.strip().lower()) for part in body.split(";")), zone)


def windows_problem(text: str | None) -> str:
    """Return what is wrong with the windows, as the rest of a sentence; nothing for None."""
    try:
        if text is not None:
            parse_hours(text)
    except ValueError as error:
        return str(error)
    return ""


def _window(text: str) -> Window:
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise ValueError(f"has '{text}', which is no window such as {FORM}")
    days, *numbers = match.groups()
    start_hour, start, end_hour, end = map(int, numbers)
    window = Window(_days(days or "mon-sun"), start_hour * 60 + start, end_hour * 60 + end)
    if start > 59 or end > 59 or window.start_min >= DAY_MIN or window.end_min > DAY_MIN:
        raise ValueError(f"has '{text}', whose times are not from 00:00 to 24:00")
    if window.start_min == window.end_min:
        raise ValueError(f"has '{text}', which is empty; a whole day is 00:00-24:00")
    return window


def _days(text: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"has '{part}', which is no day; days are {', '.join(DAYS)}")
        start = DAYS.index(first)
        length = (DAYS.index(last) - start) % 7 if dash else 0
        found |= {(start + step) % 7 for step in range(length + 1)}
    return tuple(sorted(found))
