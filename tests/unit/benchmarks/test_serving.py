"""The pure parts of the serving benchmark: figures, what load generators print, the table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving.figures import growth, percentile
from benchmarks.serving.load_output import LoadError, h2load, seconds, wrk
from benchmarks.serving.rows import Row, as_json, ratio, text

WRK = """Running 1s test @ http://127.0.0.1:8000/v2
  1 threads and 16 connections
  Latency Distribution
     50%  213.00us
     75%    1.02ms
     90%    1.10ms
     99%    2.50s
  66885 requests in 1.00s, 30.10MB read
  Socket errors: connect 0, read 2, write 0, timeout 1
  Non-2xx or 3xx responses: 4
Requests/sec:  66885.50
Transfer/sec:     30.10MB
"""
H2LOAD = """finished in 1.00s, 4743.00 req/s, 1.20MB/s
requests: 4743 total, 4775 started, 4743 done, 4740 succeeded, 3 failed, 0 errored, 0 timeout
status codes: 4740 2xx, 0 3xx, 3 4xx, 0 5xx
"""


def test_what_wrk_prints() -> None:
    load = wrk(WRK)
    assert (load.requests, load.per_s, load.failures) == (66885, 66885.5, 7)
    assert load.latency_s == {50: pytest.approx(213e-6), 75: 1.02e-3, 90: 1.1e-3, 99: 2.5}


def test_what_h2load_prints() -> None:
    load = h2load(H2LOAD)
    assert (load.requests, load.per_s, load.failures) == (4743, 4743.0, 3)


@pytest.mark.parametrize("read", [wrk, h2load])
def test_what_is_no_figure_is_an_error(read: object) -> None:
    with pytest.raises(LoadError, match="said nothing of the kind"):
        read("connection refused")  # type: ignore[operator]
    with pytest.raises(LoadError, match="is no duration"):
        seconds("1 day")


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_its_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


def test_growth_is_that_of_the_second_half() -> None:
    assert growth([50, 90, 100, 100, 100, 100, 101, 102]) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="too few"):
        growth([1, 2, 3])


def test_a_row_says_whether_its_target_is_met() -> None:
    assert ratio("x", 20.0, 40.0, "Triton", "µs", 0.5).met
    assert not ratio("x", 20.0, 40.0, "Triton", "1/s", 2, is_minimum=True).met
    assert Row("x", 1.0, "s").met is None
    assert Row("x", None, "s", 1.0).met is False
    lines = list(text([ratio("a name", 20.0, 40.0, "Triton", "µs", 0.4)]))
    assert lines[0].split() == ["a", "name", "0.50", "x", "Triton's", "<=", "0.4", "MISSED"]
    assert "edge-agent 20.0, Triton 40.0 µs" in lines[1]
    assert as_json(Row("x", 1.0, "s", 2.0))["met"] is True
