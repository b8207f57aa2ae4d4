"""How long is waited: spread, capped, and not shorter than asked for."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.policy.backoff import RETRY_AFTER_CAP_S, resume_delay_s, sync_delay_s

INTERVALS = st.floats(1, 86_400)
JITTERS = st.floats(0, 1, exclude_max=True)


@given(INTERVALS, st.integers(0, 100), JITTERS)
def test_looks_at_the_store_are_never_later_than_the_interval(
    interval_s: float, failures: int, jitter: float
) -> None:
    delay_s = sync_delay_s(interval_s, failures, jitter)
    assert 0.5 * min(interval_s, 5.0) <= delay_s <= interval_s


def test_the_wait_doubles_and_is_spread_over_half_of_it() -> None:
    assert [sync_delay_s(300, failures, 0.0) for failures in (1, 2, 3, 7, 50)] == [2.5, 5, 10, 150, 150]
    assert [sync_delay_s(300, failures, 0.5) for failures in (1, 2, 3, 7)] == [3.75, 7.5, 15, 225]


@given(INTERVALS, st.integers(1, 100), JITTERS, st.floats(0, 1e9))
def test_a_store_that_asks_for_time_gets_it_up_to_a_limit(
    interval_s: float, failures: int, jitter: float, asked_s: float
) -> None:
    limit_s = max(interval_s, RETRY_AFTER_CAP_S)
    delay_s = sync_delay_s(interval_s, failures, jitter, asked_s)
    assert min(asked_s, limit_s) <= delay_s <= max(1.1 * min(asked_s, limit_s), interval_s)


@given(INTERVALS, st.none() | st.floats(-1e6, 1e7), JITTERS)
def test_downloads_go_on_soon_after_their_wait(interval_s: float, wait_s: float | None, jitter: float) -> None:
    delay_s = resume_delay_s(interval_s, wait_s, jitter)
    assert 0 <= delay_s <= interval_s
    if wait_s is not None and wait_s < 0.9 * interval_s:
        assert max(0.0, wait_s) <= delay_s <= max(0.0, wait_s) + 0.1 * interval_s
