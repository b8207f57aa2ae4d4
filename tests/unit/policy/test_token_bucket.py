"""The rate limit, with the clock as an argument."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.policy.token_bucket import BURST_S, TokenBucket


def test_each_piece_is_paid_for_before_the_next() -> None:
    bucket = TokenBucket.empty(1000.0, 50.0)
    bucket, wait_s = bucket.take(500, 50.0)
    assert wait_s == 0.5
    bucket, wait_s = bucket.take(500, 50.5)
    assert wait_s == 0.5
    # Two seconds of nothing earn no more than the burst.
    bucket, wait_s = bucket.take(1000, 53.0)
    assert wait_s == 0.0
    assert bucket.take(1000, 53.0)[1] == 1.0


def test_a_clock_that_stands_still_or_goes_back_gives_nothing_away() -> None:
    bucket, _ = TokenBucket.empty(1000.0, 50.0).take(500, 50.0)
    assert bucket.take(0, 40.0)[1] == 0.5


@given(
    st.floats(1024, 1e9),
    st.lists(st.tuples(st.integers(1, 65_536), st.floats(0, 100)), min_size=1, max_size=50),
)
def test_the_rate_is_never_exceeded_by_more_than_a_burst(rate: float, pieces: list[tuple[int, float]]) -> None:
    """`pieces` are sizes, and how long each took to come beside the wait that was asked for."""
    bucket, now_s, total = TokenBucket.empty(rate, 0.0), 0.0, 0
    for size, took_s in pieces:
        now_s += took_s
        bucket, wait_s = bucket.take(size, now_s)
        now_s += wait_s
        total += size
        assert total <= rate * (now_s + BURST_S) * (1 + 1e-9)
    took_s = sum(took for _, took in pieces)
    # Nor is it slower than it has to be.
    assert now_s <= took_s + total / rate * (1 + 1e-9)
