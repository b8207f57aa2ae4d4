import numpy as np
import pytest

from edge_fleet.analyse import Totals
from edge_fleet.experiments import Unit
from edge_fleet.sample_ratio import RatioCheck, check_ratio

EVEN = {"1": 1.0, "2": 1.0}


def check(exposures: list[dict[str, int]], unit: Unit = "request", **weights: float) -> RatioCheck:
    totals = Totals({f"d{place}": arms for place, arms in enumerate(exposures)})
    return check_ratio(totals, weights or EVEN, unit)


def test_predictions_against_weights() -> None:
    found = check([{"1": 440, "2": 560}])
    assert found.observed == {"1": 440, "2": 560}
    assert found.expected == {"1": 500, "2": 500}
    assert found.p == pytest.approx(0.000148, rel=0.01)  # chi-square 14.4, one degree of freedom
    assert found.is_alarming
    assert not check([{"1": 440, "2": 560}], "request", **{"1": 44, "2": 56}).is_alarming


def test_with_unit_device_devices_count() -> None:
    found = check([{"1": 10_000}] * 10 + [{"2": 10}] * 10, "device")
    assert (found.counted, found.observed, found.p) == ("devices", {"1": 10, "2": 10}, 1.0)


def test_too_little_to_tell() -> None:
    assert check([{"1": 4, "2": 4}]).note == "too few predictions to tell"
    assert check([]).p is None
    assert check([{"1": 90}], "request", **{"1": 1}).p is None
    found = check([{"1": 440, "2": 560}], "key")
    assert found.p is None
    assert "fewer than 10 devices" in found.note


def test_an_arm_that_nobody_named_and_reserved_ones() -> None:
    found = check([{"1": 50, "2": 50, "fallback": 7, "3": 9}])
    assert (found.p, found.note) == (1.0, "without 3, which the weights do not name")


@pytest.mark.parametrize("unit", ["request", "key", "device"])
def test_chance_alone_seldom_alarms(unit: Unit) -> None:
    rng = np.random.default_rng(7)
    low = 0
    for _ in range(400):
        devices = []
        for _ in range(60):
            arms = {"1": 0, "2": 0}
            # By key, a few keys of each device make all of its predictions.
            for _ in range(20 if unit == "key" else 1):
                arms["1" if rng.random() < 0.5 else "2"] += int(rng.geometric(0.05)) if unit == "key" else 1
            if unit == "request":
                ones = int(rng.binomial(100, 0.5))
                arms = {"1": ones, "2": 100 - ones}
            devices.append(arms)
        p = check(devices, unit).p
        assert p is not None
        low += p < 0.05
    assert 0.02 <= low / 400 <= 0.09
