"""How long to wait before something is tried again: a connection, a version that could not be probed."""

from typing import Final

FIRST_S: Final = 0.5
CAP_S: Final = 60.0
RIVAL_FIRST_S: Final = 30.0
RIVAL_CAP_S: Final = 900.0
PROBE_FIRST_S: Final = 60.0
PROBE_CAP_S: Final = 3600.0


def reconnect_delay_s(failures: int, jitter: float) -> float:
    """Return how long to wait after `failures` (at least 1) failures in a row.

    From half a second on, doubling up to a minute; `jitter`, in [0, 1), spreads a fleet over half of it.
    """
    return _delay_s(FIRST_S, CAP_S, failures, jitter)


def rival_delay_s(takeovers: int, jitter: float) -> float:
    """Return how long to leave the broker to another client with the same id, after `takeovers` by it.

    Long, so that two devices with one id do not throw each other out all the time.
    """
    return _delay_s(RIVAL_FIRST_S, RIVAL_CAP_S, takeovers, jitter)


def probe_delay_s(tries: int, jitter: float) -> float:
    """Return how long to wait before a version is tried again that could not be, `tries` times in a row."""
    return _delay_s(PROBE_FIRST_S, PROBE_CAP_S, tries, jitter)


def _delay_s(first_s: float, cap_s: float, count: int, jitter: float) -> float:
    return min(cap_s, first_s * 2.0 ** min(max(count, 1) - 1, 32)) * (0.5 + 0.5 * jitter)
