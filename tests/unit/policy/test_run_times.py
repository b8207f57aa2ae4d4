"""Buckets of run times: their bounds, and what is read from the counts."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.policy.run_times import BUCKETS, LONGEST_NS, SHORTEST_NS, beyond, bucket, quantile_ns, upper_ns

times = st.integers(SHORTEST_NS, LONGEST_NS)


@given(times)
def test_a_run_time_lies_within_the_bounds_of_its_bucket(run_ns: int) -> None:
    index = bucket(run_ns)
    assert 0 <= index < BUCKETS
    assert run_ns < upper_ns(index) <= 1.125 * run_ns + 128
    assert index == 0 or upper_ns(index - 1) <= run_ns


def test_the_bounds_are_those_of_the_buckets() -> None:
    assert (bucket(0), bucket(SHORTEST_NS), bucket(LONGEST_NS), bucket(10**15)) == (
        0,
        0,
        BUCKETS - 1,
        BUCKETS - 1,
    )
    assert upper_ns(BUCKETS - 1) == LONGEST_NS + 1


@given(st.lists(times, min_size=1), st.floats(0, 1))
def test_a_quantile_is_no_less_than_the_true_one_and_hardly_more(run_times: list[int], q: float) -> None:
    counts = Counter(map(bucket, run_times))
    true = sorted(run_times)[int(q * (len(run_times) - 1))]
    assert true < quantile_ns(counts, q)
    assert quantile_ns(counts, 1.0) <= 1.125 * max(run_times) + 128


@given(st.lists(times), times)
def test_what_lies_beyond_a_limit_surely_does(run_times: list[int], limit_ns: int) -> None:
    counts = Counter(map(bucket, run_times))
    truly = sum(run_ns > limit_ns for run_ns in run_times)
    assert beyond(counts, limit_ns) <= truly
    assert beyond(counts, limit_ns) >= sum(run_ns > 1.27 * limit_ns for run_ns in run_times)


def test_nothing_has_no_quantile() -> None:
    assert quantile_ns({}, 0.99) == 0
