import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cli.exposition import parse, quantile
from edge_agent.telemetry.counters import BUCKETS_S, Counters, ServingInfo

TEXT = st.text(max_size=12)


@given(model=TEXT, version=TEXT, arm=TEXT, durations=st.lists(st.floats(0, 20), max_size=20))
def test_what_serving_writes_is_read_back(model: str, version: str, arm: str, durations: list[float]) -> None:
    counters = Counters()
    for duration_s in durations:
        counters.of(model, version).observe(duration_s)
        counters.of(model, version).note_arm(arm)
    counters.of(model, version)
    page = parse(counters.render(ServingInfo("1", "p", 5.0, ((model, version, "onnx", "int8"),))).decode())
    (total,) = page["edge_agent_requests_total"]
    assert (total.labels, total.value) == ({"model": model, "version": version}, len(durations))
    assert [sample.labels["arm"] for sample in page.get("edge_agent_arm_requests_total", ())] == [arm] * bool(
        durations
    )
    buckets = page["edge_agent_request_duration_seconds_bucket"]
    assert [float(one.labels["le"]) for one in buckets] == [*BUCKETS_S, math.inf]
    assert buckets[-1].value == len(durations)


def test_lines_of_every_legal_form() -> None:
    page = parse('# HELP a b\n\na 1\nb{} 2.5 1700000000000\nc{x="{}\\"\\\\\\n,",y="2",} +Inf\nd -3e-2\n')
    assert [(name, one[0].value) for name, one in page.items()] == [
        ("a", 1), ("b", 2.5), ("c", math.inf), ("d", -0.03),
    ]  # fmt: skip
    assert page["c"][0].labels == {"x": '{}"\\\n,', "y": "2"}


@pytest.mark.parametrize("line", ["<html>", "a", "a{x=1} 2", 'a{x="1} 2', "a{b} 1", "a one"])
def test_lines_that_are_none_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse(line)


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    buckets = [(1.0, 0.0), (2.0, 10.0), (4.0, 20.0), (math.inf, 20.0)]
    assert quantile(buckets, 0.25) == 1.5
    assert quantile(buckets, 0.5) == 2.0
    assert quantile(buckets, 0.75) == 3.0
    assert quantile(buckets, 1.0) == 4.0


def test_above_the_last_bound_nothing_more_is_known_and_of_nothing_nothing() -> None:
    assert quantile([(1.0, 0.0), (10.0, 0.0), (math.inf, 5.0)], 0.5) == 10.0
    assert quantile([(1.0, 0.0), (math.inf, 0.0)], 0.5) is None
    assert quantile([], 0.5) is None


@given(st.lists(st.floats(1e-5, 9.9), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    bounds = [*BUCKETS_S, math.inf]
    found = quantile([(bound, sum(value <= bound for value in values)) for bound in bounds], q)
    assert found is not None
    true = float(np.quantile(values, q, method="inverted_cdf"))
    above = next(bound for bound in bounds if true <= bound)
    below = max((bound for bound in bounds if bound < above), default=0.0)
    assert below <= found <= above
