"""Which time signed metadata is judged by, on a machine whose clock may be wrong."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

_SKEW: Final = timedelta(hours=1)
"""How far a clock may be behind without a word: signers' and devices' clocks never agree."""


@dataclass(frozen=True, slots=True)
class Times:
    """What this device knows of the time, in UTC.

    It is not earlier than each of these, save for a clock that runs ahead. What the clock says is therefore
    never remembered: a clock at 2100 makes everything expired for as long as it stays there, no longer.
    """

    clock: datetime
    installed: datetime | None = None
    """When this agent was built or installed."""
    proven: datetime | None = None
    """When the newest metadata that was ever verified here was signed, as its signer says."""

    @property
    def now(self) -> datetime:
        """The trusted time: the latest."""
        return max(time for time in (self.clock, self.installed, self.proven) if time is not None)

    @property
    def doubt(self) -> str | None:
        """What to tell of a clock that cannot be right, in a sentence."""
        if self.now - self.clock <= _SKEW:
            return None
        reason = (
            f"the store's metadata was signed ({_minute(self.now)})"
            if self.now == self.proven
            else f"this agent was installed ({_minute(self.now)})"
        )
        return (
            f"This machine's clock says {_minute(self.clock)} UTC, before {reason}: set the clock; until then "
            "that time counts, and metadata that expired since is taken for fresh."
        )

    @property
    def remedy(self) -> str:
        """What to do if the trusted time is ahead of the real one, as a clause."""
        if self.now == self.clock:
            return f"set this machine's clock, which says {_minute(self.clock)} UTC"
        if self.now == self.proven:
            return f"replace the store's timestamp key: it says that it was signed on {_minute(self.now)} UTC"
        return f"install this agent again with a right clock: its files are of {_minute(self.now)} UTC"


def next_proven(proven: datetime | None, signed_at: datetime | None, first_expiry: datetime) -> datetime | None:
    """Return the proven time after metadata was verified.

    `signed_at` is what its signer says of the time, `first_expiry` when the first of the roles that were
    verified expires: a time that is not before that contradicts itself, and does not count. How far a signer's
    wrong clock, or a thief of its key, can bring the proven time is so bounded, and new keys free it.
    """
    if signed_at is None or signed_at >= first_expiry:
        return proven
    return signed_at if proven is None else max(proven, signed_at)


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"
