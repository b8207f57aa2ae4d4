"""How long to wait before something is tried again: a broker, a store, a version that could not be probed."""

from typing import Final

FIRST_S: Final = 0.5
CAP_S: Final = 60.0
RIVAL_FIRST_S: Final = 30.0
RIVAL_CAP_S: Final = 900.0
SYNC_FIRST_S: Final = 5.0
RETRY_AFTER_CAP_S: Final = 3600.0
"""Nobody can keep a device from its store for longer by a Retry-After, unless its interval is longer."""
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


def sync_delay_s(interval_s: float, failures: int, jitter: float, retry_after_s: float = 0.0) -> float:
    """Return how long until the next look at the store.

    `failures` counts those in a row: from 5 s on, doubling, never longer than the interval, but as long as the
    store has asked for (`retry_after_s`, capped). `jitter`, in [0, 1), spreads devices over the last tenth, and
    over half of a wait after a failure, so that a fleet that lost its store does not return as one.
    """
    if failures == 0:
        return interval_s * (0.9 + 0.1 * jitter)
    asked_s = min(retry_after_s, max(interval_s, RETRY_AFTER_CAP_S)) * (1.0 + 0.1 * jitter)
    return max(_delay_s(SYNC_FIRST_S, interval_s, failures, jitter), asked_s)


def resume_delay_s(interval_s: float, wait_s: float | None, jitter: float) -> float:
    """Return how long until the next look at the store, where downloads wait for `wait_s` more seconds.

    Not later than the interval, since newer documents may ask for something else. Where the wait ends before,
    devices whose waits end at the same moment are spread over a tenth of the interval.
    """
    usual_s = sync_delay_s(interval_s, 0, jitter)
    return usual_s if wait_s is None else min(usual_s, max(0.0, wait_s) + 0.1 * interval_s * jitter)


def probe_delay_s(tries: int, jitter: float) -> float:
    """Return how long to wait before a version is tried again that could not be, `tries` times in a row."""
    return _delay_s(PROBE_FIRST_S, PROBE_CAP_S, tries, jitter)


def _delay_s(first_s: float, cap_s: float, count: int, jitter: float) -> float:
    return min(cap_s, first_s * 2.0 ** min(max(count, 1) - 1, 32)) * (0.5 + 0.5 * jitter)
