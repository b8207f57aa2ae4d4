"""Checks whether the arms got the shares of traffic that they were meant to get. Pure.

Units of one arm that are lost, or counted twice, bias every comparison; a ratio that chance does not explain
tells of it before anybody believes the means.

Sources: Fabijan et al.: Diagnosing Sample Ratio Mismatch in Online Controlled Experiments, KDD 2019.
Rao, Scott: The Analysis of Categorical Data from Complex Sample Surveys, JASA 76, 1981 (the design effect by
which a chi-square of clustered counts is too large; first-order correction).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from scipy.special import chdtrc

from edge_fleet.analyse import RESERVED, Totals
from edge_fleet.experiments import Unit

ALARM: Final = 0.001
"""Below this probability the ratio is not chance."""
_FEWEST: Final = 5.0
"""Expected units in every arm for the chi-square to hold."""
_FEWEST_DEVICES: Final = 10
"""Devices from which the design effect can be estimated."""


@dataclass(frozen=True, slots=True)
class RatioCheck:
    """How often a ratio like this or worse comes by chance alone; `p` is None where that cannot be told."""

    counted: str
    """What was counted: devices or predictions."""
    observed: dict[str, int]
    expected: dict[str, float]
    p: float | None
    note: str = ""

    @property
    def is_alarming(self) -> bool:
        """Say whether the comparison should not be trusted."""
        return self.p is not None and self.p < ALARM


def check_ratio(totals: Totals, weights: Mapping[str, float], unit: Unit) -> RatioCheck:
    """Compare how many units each arm got with its weight; by a chi-square test."""
    by_device = {
        device: {arm: arms.get(arm, 0) for arm in weights} for device, arms in totals.exposures.items()
    }
    if unit == "device":
        by_device = {
            device: {arm: int(count > 0) for arm, count in arms.items()} for device, arms in by_device.items()
        }
    observed = {arm: sum(arms[arm] for arms in by_device.values()) for arm in weights}
    total, whole = sum(observed.values()), sum(weights.values())
    expected = {arm: total * (weight / whole) for arm, weight in weights.items()}
    counted = "devices" if unit == "device" else "predictions"
    effect: float | None = 1.0
    if unit == "key":
        effect = _design_effect([arms for arms in by_device.values() if any(arms.values())], observed)
    p, note = None, ""
    if len(weights) < 2 or min(expected.values()) < _FEWEST:
        note = f"too few {counted} to tell"
    elif effect is None:
        note = f"a key's predictions go together, and fewer than {_FEWEST_DEVICES} devices do not tell how much"
    else:
        square = sum((observed[arm] - expected[arm]) ** 2 / expected[arm] for arm in weights)
        p = float(chdtrc(len(weights) - 1, square / effect))
    if others := sorted(set(totals.arms) - set(weights) - set(RESERVED)):
        note = "; ".join(filter(None, (note, f"without {', '.join(others)}, which the weights do not name")))
    return RatioCheck(counted, observed, expected, p, note)


def _design_effect(devices: list[dict[str, int]], observed: Mapping[str, int]) -> float | None:
    """Return how much more the shares vary between devices than by independent predictions; 1 or more."""
    total = sum(observed.values())
    if len(devices) < _FEWEST_DEVICES or total == 0:
        return None
    effects = 0.0
    for arm, count in observed.items():
        share = count / total
        if 0 < share < 1:
            parts = [(arms[arm] - share * sum(arms.values())) / total for arms in devices]
            variance = len(parts) / (len(parts) - 1) * sum(part * part for part in parts)
            effects += (1 - share) * variance / (share * (1 - share) / total)
    return max(1.0, effects / (len(observed) - 1))
