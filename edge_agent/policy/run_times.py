"""Run times counted in buckets that grow by a constant factor, in whole numbers alone. Pure.

Bucket `8 * o + m` holds the nanoseconds in [(8 + m) << (o + 7), (9 + m) << (o + 7)): eight to each doubling,
from a microsecond to a minute. So a bucket's bounds are 6 to 12.5 % apart, and finding one takes no logarithm:
it is done in the request path, by `telemetry.health_page`.
"""

from collections.abc import Mapping
from typing import Final

SHORTEST_NS: Final = 1 << 10
LONGEST_NS: Final = (1 << 36) - 1
"""Shorter and longer ones count as these."""
BUCKETS: Final = 26 * 8

Counts = Mapping[int, int]
"""How many run times lie in each bucket that has any."""


def bucket(run_ns: int) -> int:
    """Return the bucket of a run time."""
    run_ns = min(max(run_ns, SHORTEST_NS), LONGEST_NS)
    bits = run_ns.bit_length()
    return (bits << 3) + (run_ns >> (bits - 4)) - 96


def upper_ns(index: int) -> int:
    """Return the first nanosecond beyond a bucket."""
    return (9 + (index & 7)) << ((index >> 3) + 7)


def quantile_ns(counts: Counts, q: float) -> int:
    """Return a bound below which a share `q` of the run times lies; 0 if there are none."""
    rank, seen, found = q * (sum(counts.values()) - 1), 0, 0
    for index in sorted(counts):
        seen, found = seen + counts[index], upper_ns(index)
        if seen > rank:
            break
    return found


def beyond(counts: Counts, limit_ns: float) -> int:
    """Return how many run times were surely longer than this."""
    return sum(count for index, count in counts.items() if index and upper_ns(index - 1) > limit_ns)
