import math
import random
import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.messages import AbMessage, ArmSums
from edge_fleet.analyse import Comparison, Sum, Totals, compare, difference, gather, mean

VALUES = st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=2, max_size=20)


def ab(
    rows: list[tuple[str, int, float]],
    exposures: dict[str, int] | None = None,
    *,
    database: str = "a",
    revision: int = 1,
    part: int = 0,
) -> AbMessage:
    sums = tuple(ArmSums(arm, bucket, "x", 1, value, value**2) for arm, bucket, value in rows)
    return AbMessage(database, revision, "m", "e", 1, exposures or {}, sums, part)


def outcomes(rows: list[tuple[str, str, int, float]]) -> Totals:
    """Make totals of device, arm, bucket, value."""
    totals = Totals()
    arms = totals.outcomes.setdefault("x", {})
    for device, arm, bucket, value in rows:
        exposed = totals.exposures.setdefault(device, {})
        exposed[arm] = exposed.get(arm, 0) + 1
        cluster = arms.setdefault(arm, {}).setdefault((device, bucket), Sum())
        cluster.n += 1
        cluster.total += value
    return totals


class TestGather:
    def test_databases_add_up_and_parts_belong_together(self) -> None:
        totals = gather(
            [
                ("d", ab([("1", 0, 1.0)], {"1": 2})),
                ("d", ab([("2", 0, 2.0)], {"2": 3}, part=1)),
                ("d", ab([("1", 0, 4.0)], {"1": 5}, database="b")),
                ("e", ab([("1", 0, 8.0)], {"1": 7})),
            ]
        )
        assert totals.exposures == {"d": {"1": 7, "2": 3}, "e": {"1": 7}}
        assert totals.outcomes["x"]["1"] == {("d", 0): Sum(2, 5.0), ("e", 0): Sum(1, 8.0)}
        assert (totals.arms, totals.exposed("1")) == (["1", "2"], 14)

    @given(st.booleans())
    def test_a_row_that_moved_to_another_part_counts_once(self, turned: bool) -> None:
        old = ab([("1", 0, 1.0), ("1", 1, 2.0)], {"1": 4}, revision=1, part=1)
        new = ab([("1", 1, 3.0)], {"1": 6}, revision=2, part=0)
        totals = gather([("d", message) for message in ((new, old) if turned else (old, new))])
        assert totals.outcomes["x"]["1"] == {("d", 0): Sum(1, 1.0), ("d", 1): Sum(1, 3.0)}
        assert totals.exposed("1") == 6


class TestEstimates:
    @given(VALUES)
    def test_with_one_outcome_a_cluster_it_is_the_standard_error_of_the_mean(self, values: list[float]) -> None:
        found = mean({str(place): Sum(1, value) for place, value in enumerate(values)})
        assert found.value == pytest.approx(statistics.fmean(values), abs=1e-9)
        expected = statistics.stdev(values) / math.sqrt(len(values))
        assert found.standard_error == pytest.approx(expected, rel=1e-6, abs=1e-9)

    def test_the_interval_is_students(self) -> None:
        found = mean({str(value): Sum(1, value) for value in (1.0, 2.0, 3.0)})
        assert found.high == pytest.approx(2 + 4.302653 * math.sqrt(1 / 3), rel=1e-6)

    @given(VALUES, VALUES)
    def test_without_common_clusters_variances_add_up(self, first: list[float], second: list[float]) -> None:
        arm = {f"a{place}": Sum(1, value) for place, value in enumerate(first)}
        control = {f"b{place}": Sum(1, value) for place, value in enumerate(second)}
        found, errors = difference(arm, control), (mean(arm).standard_error, mean(control).standard_error)
        assert found.standard_error == pytest.approx(math.hypot(*(error or 0.0 for error in errors)), abs=1e-9)

    @given(VALUES, st.floats(-1e3, 1e3))
    def test_what_arms_of_a_cluster_share_cancels(self, values: list[float], effect: float) -> None:
        control = {str(place): Sum(1, value) for place, value in enumerate(values)}
        arm = {str(place): Sum(1, value + effect) for place, value in enumerate(values)}
        found = difference(arm, control)
        assert found.value == pytest.approx(effect, abs=1e-9)
        assert found.standard_error == pytest.approx(0, abs=1e-9)

    def test_what_cannot_be_told(self) -> None:
        assert mean({}).value is None
        assert mean({"a": Sum(3, 6.0)}) == type(mean({}))(2.0)
        assert mean({"a": Sum(1, 1e308), "b": Sum(1, 1.7e308)}).standard_error is None
        assert difference({"a": Sum(1, 1.0)}, {}).value is None
        assert difference({"a": Sum(1, 3.0)}, {"a": Sum(1, 1.0)}).low is None


class TestCompare:
    def test_arms_are_in_the_order_asked_for_and_reserved_ones_apart(self) -> None:
        rows = [("d", arm, bucket, float(bucket)) for arm in ("1", "2", "fallback") for bucket in range(4)]
        found = compare(outcomes(rows), "x", ["2", "1"])
        assert [arm.arm for arm in found.arms] == ["2", "1"]
        assert found.arms[0].difference is None
        assert [(arm.arm, arm.n, arm.difference) for arm in found.reserved] == [("fallback", 4, None)]
        assert "bucket of a device, since 1 device is too few" in found.cluster

    @pytest.mark.parametrize(
        ("arm_of", "devices", "cluster"),
        [
            (lambda device, _: str(device % 2), 6, "device, since each device runs one arm"),
            (lambda _, bucket: str(bucket % 2), 6, "bucket of a device, since 6 devices are too few"),
            (lambda _, bucket: str(bucket % 2), 30, "device, since its outcomes depend"),
        ],
    )
    def test_the_unit_of_analysis(self, arm_of: Callable[[int, int], str], devices: int, cluster: str) -> None:
        rows = [
            (f"d{device}", arm_of(device, bucket), bucket, 1.0)
            for device in range(devices)
            for bucket in range(4)
        ]
        assert compare(outcomes(rows), "x").cluster.startswith(cluster)

    def test_without_outcomes(self) -> None:
        found = compare(Totals(exposures={"d": {"1": 4}}), "x", ["1", "2"])
        assert [(arm.exposures, arm.n, arm.mean.value) for arm in found.arms] == [(4, 0, None), (0, 0, None)]


def experiment(rng: np.random.Generator, by_device: bool, devices: int) -> Comparison:
    """Draw outcomes: device effects, bucket effects, unequal traffic; the second arm is 0.3 better."""
    totals = Totals()
    arms = totals.outcomes.setdefault("x", {"a": {}, "b": {}})
    for device in range(devices):
        own = rng.normal()
        for bucket in range(8):
            user = rng.normal()
            for place, arm in enumerate("ab"):
                if by_device and place != device % 2:
                    continue
                n = int(rng.poisson(5))
                noise = rng.normal(size=n).sum()
                arms[arm][f"d{device}", bucket] = Sum(n, float(n * (own + user + 0.3 * place) + noise))
                totals.exposures.setdefault(f"d{device}", {})[arm] = 1
    return compare(totals, "x")


@pytest.mark.parametrize(("by_device", "devices"), [(True, 24), (False, 40), (False, 3)])
def test_intervals_cover_the_truth_95_times_of_100(by_device: bool, devices: int) -> None:
    rng = np.random.default_rng(20261122)
    covered, runs = 0, 600
    for _ in range(runs):
        found = experiment(rng, by_device, devices).arms[1].difference
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    # The standard error of a share of 95 % in 600 runs is 0.9 points.
    assert 0.925 <= covered / runs <= 0.98


def test_clusters_matter() -> None:
    """Outcomes taken for independent would promise more than they hold: here four times too much."""
    rng = random.Random(1)
    rows = []
    for device in range(40):
        own = rng.gauss(0, 1)
        rows += [(f"d{device}", str(device % 2), bucket, own) for bucket in range(16)]
    totals = outcomes(rows)
    honest, naive = compare(totals, "x").arms[1].mean, compare(totals, "x", by="bucket").arms[1].mean
    assert honest.standard_error is not None
    assert naive.standard_error is not None
    assert honest.standard_error > 3.5 * naive.standard_error
