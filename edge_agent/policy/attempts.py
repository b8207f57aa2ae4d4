"""Loads of versions that never came to an end, since the machine, the agent or serving went down. Pure.

An attempt is written down before versions are loaded, and closed once they serve. What is found open at the
next start was ended by a power cut, a reset or a kill: nothing that a version could be charged with. Nor is an
end of the serving process that nobody is charged with, as after a kill from outside. But one that takes the
machine or serving down with it must not do so for ever, so they are counted, with limits of their own.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

RESETS_LIMIT: Final = 5
"""Times in a row that the machine went down while a version was loaded, or soon after."""
KILLS_LIMIT: Final = 20
"""Times in a row that the agent was killed, and the machine went on, while a version was loaded; and times that
serving was, and the agent went on."""
PATIENT_FROM: Final = 2
"""From so many ends of serving in a row on, a version waits before it is loaded again."""
CAREFUL_FROM: Final = 2
"""From so many in a row on, versions are loaded one at a time: so that the one to blame is known."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is under way in one life of the machine, which `boot` names; versions by key."""

    boot: str
    loading: tuple[str, ...] = ()
    settling: tuple[str, ...] = ()
    """Those that serve, but not for long yet."""


@dataclass(frozen=True, slots=True)
class Interruptions:
    """How often in a row loading a version did not come to an end.

    `resets` of the machine, `kills` of the agent, and `ends` of the serving process alone.
    """

    resets: int = 0
    kills: int = 0
    ends: int = 0

    @property
    def is_too_many(self) -> bool:
        """Whether the version is not to be loaded again."""
        return self.resets >= RESETS_LIMIT or max(self.kills, self.ends) >= KILLS_LIMIT

    @property
    def how(self) -> str:
        """What happened, as a clause."""
        if self.resets >= RESETS_LIMIT:
            return f"the device went down {self.resets} times in a row while it was loaded, or soon after"
        if self.kills >= KILLS_LIMIT:
            return f"the agent was killed {self.kills} times in a row while it was loaded"
        return f"the serving process ended {self.ends} times in a row while it was loaded"


def interrupted(
    counts: Mapping[str, Interruptions], attempt: Attempt | None, boot: str
) -> dict[str, Interruptions]:
    """Return the counts after a start that found this attempt open."""
    if attempt is None:
        return dict(counts)
    if attempt.boot == boot:
        return _more(counts, attempt.loading, kills=1)
    return _more(counts, {*attempt.loading, *attempt.settling}, resets=1)


def ended(
    counts: Mapping[str, Interruptions], attempt: Attempt | None, loading: str | None
) -> dict[str, Interruptions]:
    """Return the counts after an end of serving that nobody is charged with; `loading` is what was being loaded
    at that moment, by key, if that is known."""
    keys = attempt.loading if attempt is not None else ()
    return _more(counts, (loading,) if loading in keys else keys, ends=1)


def is_careful(counts: Mapping[str, Interruptions]) -> bool:
    """Say whether versions are to be loaded one at a time."""
    return any(count.resets + count.kills >= CAREFUL_FROM for count in counts.values())


def _more(counts: Mapping[str, Interruptions], keys: Iterable[str], **more: int) -> dict[str, Interruptions]:
    after = dict(counts)
    for key in keys:
        old = after.get(key, Interruptions())
        changed = {name: getattr(old, name) + count for name, count in more.items()}
        after[key] = dataclasses.replace(old, **changed)
    return after
