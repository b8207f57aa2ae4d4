"""Where the memory for a version comes from, when it is to be loaded. Pure.

| the version                      | is in a plan                                 | is asked for           |
|----------------------------------|----------------------------------------------|------------------------|
| fits                             | beside                                       | beside                 |
| fits once idle versions are gone | beside, without these                        | beside, after a turn   |
| fits once others are gone        | in place of those that leave, then of others | in place, after a turn |
| does not fit even alone          | never                                        | never                  |

A version that was loaded because of a request stays for a time that grows with what loading it took, so that
versions that do not fit together take turns instead of being loaded for each request.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

GUESS: Final = 2
"""What a model is taken to need before it was ever loaded, as a multiple of its file: Magika takes 1.2."""

TURN_S: Final = 1.0
TURN_LOADS: Final = 4.0
IDLE_LOADS: Final = 2.0
"""A version in use stays for a second at least and for four times what its load took, an idle one for twice."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a version will take; `least_bytes`, 1 or more, is what it cannot do without, the rest is a guess."""

    bytes: int
    least_bytes: int


@dataclass(frozen=True, slots=True)
class Resident:
    """A version that is in memory. Times are of one monotonic clock, in seconds.

    `is_leaving`: not in the plan that is being applied. `is_fresh`: loaded for that plan just now.
    """

    bytes: int
    used_s: float
    loaded_s: float
    load_s: float
    is_idle: bool
    is_leaving: bool = False
    is_fresh: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """Load it once the residents with these indexes are unloaded; `in_place` if one of them is in use or
    leaves, so that requests have to wait."""

    unload: tuple[int, ...] = ()
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Decide again at `until_s`, or sooner when a version becomes idle."""

    until_s: float


@dataclass(frozen=True, slots=True)
class Never:
    """It does not fit; `allowed_bytes` is all that it could have."""

    allowed_bytes: int


def need(measured_bytes: int | None, stated_bytes: int, file_bytes: int) -> Need:
    """Return what a version needs: as measured at its last load, else as stated, else guessed from its file."""
    if measured_bytes is not None:
        return Need(measured_bytes, measured_bytes)
    if stated_bytes:
        return Need(stated_bytes, stated_bytes)
    return Need(GUESS * file_bytes, file_bytes)


def for_plan(need: Need, free_bytes: int, residents: Sequence[Resident]) -> Load | Never:
    """Decide for a version of a plan; `free_bytes` may be taken now, and is negative where too much is."""
    idle = _least_recent(residents, lambda one: one.is_idle and not one.is_leaving and not one.is_fresh)
    if (unload := _enough(need.bytes, free_bytes, idle, residents)) is not None:
        return Load(unload)
    leaving = _least_recent(residents, lambda one: one.is_leaving)
    fresh = _least_recent(residents, lambda one: one.is_idle and one.is_fresh and not one.is_leaving)
    order = [*leaving, *idle, *fresh]
    order += [index for index in _least_recent(residents, lambda _: True) if index not in order]
    wanted = _within_all(need, free_bytes, residents)
    if isinstance(wanted, Never):
        return wanted
    return Load(_enough(wanted, free_bytes, order, residents) or (), in_place=True)


def for_request(
    need: Need, free_bytes: int, residents: Sequence[Resident], now_s: float
) -> Load | Wait | Never:
    """Decide for a version that is not in memory and that requests wait for."""
    wanted = _within_all(need, free_bytes, residents)
    if isinstance(wanted, Never):
        return wanted
    order = [*_least_recent(residents, lambda one: one.is_idle), *_longest_here(residents)]
    over = [index for index in order if _turn_ends_s(residents[index]) <= now_s]
    if (unload := _enough(wanted, free_bytes, over, residents)) is not None:
        return Load(unload, in_place=not all(residents[index].is_idle for index in unload))
    ends_s = (_turn_ends_s(one) for one in residents)
    return Wait(min((end_s for end_s in ends_s if end_s > now_s), default=now_s + TURN_S))


def excess(free_bytes: int, residents: Sequence[Resident]) -> tuple[int, ...]:
    """Return the idle versions to unload where more is taken than may be, as far as that helps."""
    idle = _least_recent(residents, lambda one: one.is_idle and not one.is_fresh)
    enough = _enough(0, free_bytes, idle, residents)
    return tuple(idle) if enough is None else enough


def _within_all(need: Need, free_bytes: int, residents: Sequence[Resident]) -> int | Never:
    """Return what to make room for: a guess that exceeds everything is brought down to that, and tried."""
    allowed = max(0, free_bytes + sum(one.bytes for one in residents))
    return Never(allowed) if need.least_bytes > allowed else min(need.bytes, allowed)


def _enough(
    needed: int, free_bytes: int, order: Iterable[int], residents: Sequence[Resident]
) -> tuple[int, ...] | None:
    """Return as many of the first ones as make room, None if all of them do not."""
    taken: list[int] = []
    for index in order:
        if free_bytes >= needed:
            break
        taken.append(index)
        free_bytes += residents[index].bytes
    return tuple(taken) if free_bytes >= needed else None


def _least_recent(residents: Sequence[Resident], is_meant: Callable[[Resident], bool]) -> list[int]:
    meant = [index for index, one in enumerate(residents) if is_meant(one)]
    return sorted(meant, key=lambda index: residents[index].used_s)


def _longest_here(residents: Sequence[Resident]) -> list[int]:
    busy = [index for index, one in enumerate(residents) if not one.is_idle]
    return sorted(busy, key=lambda index: residents[index].loaded_s)


def _turn_ends_s(one: Resident) -> float:
    stay_s = IDLE_LOADS * one.load_s if one.is_idle else max(TURN_S, TURN_LOADS * one.load_s)
    return one.loaded_s + stay_s
