"""Loads of versions that never came to an end, since the whole machine or the whole agent went down. Pure.

An attempt is written down before versions are loaded, and closed once they serve. What is found open at the
next start was ended by a power cut, a reset or a kill: nothing that a version could be charged with. But one
that takes the machine down with it must not do so for ever, so they are counted, with limits of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

RESETS_LIMIT: Final = 5
"""Times in a row that the machine went down while a version was loaded, or soon after."""
KILLS_LIMIT: Final = 20
"""Times in a row that the agent was killed, and the machine went on, while a version was loaded."""
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
    """How often in a row loading a version did not come to an end."""

    resets: int = 0
    kills: int = 0

    @property
    def is_too_many(self) -> bool:
        """Whether the version is not to be loaded again."""
        return self.resets >= RESETS_LIMIT or self.kills >= KILLS_LIMIT

    @property
    def how(self) -> str:
        """What happened, as a clause."""
        if self.resets >= RESETS_LIMIT:
            return f"the device went down {self.resets} times in a row while it was loaded, or soon after"
        return f"the agent was killed {self.kills} times in a row while it was loaded"


def interrupted(
    counts: Mapping[str, Interruptions], attempt: Attempt | None, boot: str
) -> dict[str, Interruptions]:
    """Return the counts after a start that found this attempt open."""
    after = dict(counts)
    if attempt is None:
        return after
    if attempt.boot == boot:
        for key in attempt.loading:
            old = after.get(key, Interruptions())
            after[key] = Interruptions(old.resets, old.kills + 1)
    else:
        for key in {*attempt.loading, *attempt.settling}:
            old = after.get(key, Interruptions())
            after[key] = Interruptions(old.resets + 1, old.kills)
    return after


def is_careful(counts: Mapping[str, Interruptions]) -> bool:
    """Say whether versions are to be loaded one at a time."""
    return any(count.resets + count.kills >= CAREFUL_FROM for count in counts.values())
