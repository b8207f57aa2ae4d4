"""How long to wait so that a rate is kept: a token bucket. Pure: the time is an argument."""

from dataclasses import dataclass
from typing import Final, Self

BURST_S: Final = 1.0
"""Seconds of the rate that may come at once after a pause."""


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """Bytes that may pass at a time; what passed before it may is a debt, to be waited for."""

    rate_bytes_per_s: float
    level_bytes: float
    at_s: float
    """When the level was that; seconds of any clock that only goes forward."""

    @classmethod
    def empty(cls, rate_bytes_per_s: float, now_s: float) -> Self:
        """Return a bucket without anything in it, so that what starts again and again gains nothing by that."""
        return cls(rate_bytes_per_s, 0.0, now_s)

    def take(self, size_bytes: int, now_s: float) -> tuple["TokenBucket", float]:
        """Let `size_bytes` pass; return the bucket after that, and the seconds to wait before the next."""
        gained = max(0.0, now_s - self.at_s) * self.rate_bytes_per_s
        level = min(self.level_bytes + gained, BURST_S * self.rate_bytes_per_s) - size_bytes
        after = TokenBucket(self.rate_bytes_per_s, level, max(now_s, self.at_s))
        return after, max(0.0, -level / self.rate_bytes_per_s)
