"""Compares the arms of an experiment from the sums that devices report. Pure.

An arm's mean is a ratio of two sums, Σx / Σn, over clusters of outcomes that are not independent of each other:
those of one device, or of one device and bucket. Its variance is that of the linearised ratio, summed over the
clusters; the difference of two arms is linearised as one, so that what both arms of a cluster share cancels.
Intervals are Student's, with one degree of freedom less than there are clusters (Welch's where no cluster is
in both arms).

Sources: Deng, Knoblich, Lu: Applying the Delta Method in Metric Analytics, KDD 2018, sections 3 and 4.
Cameron, Miller: A Practitioner's Guide to Cluster-Robust Inference, J. Human Resources 50, 2015 (G / (G - 1),
G - 1 degrees of freedom, and that 20 to 50 clusters are few).
Welch: The generalization of Student's problem, Biometrika 34, 1947.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from scipy.special import stdtrit

from edge_agent.documents.messages import AbMessage
from edge_agent.policy.assignment import DIRECT, FALLBACK

RESERVED: Final = (FALLBACK, DIRECT)
"""Arms of answers that nobody assigned; they tell nothing about the versions that are compared."""
MANY_DEVICES: Final = 30
"""From so many devices on each is one cluster."""
CONFIDENCE: Final = 0.95


@dataclass(slots=True)
class Sum:
    """Outcomes of one cluster in one arm: how many, and their sum."""

    n: int = 0
    total: float = 0.0


@dataclass(slots=True)
class Totals:
    """What an experiment's devices counted in one epoch."""

    exposures: dict[str, dict[str, int]] = field(default_factory=dict)
    """Predictions by device and arm."""
    outcomes: dict[str, dict[str, dict[tuple[str, int], Sum]]] = field(default_factory=dict)
    """By metric, arm, and device with bucket."""

    @property
    def arms(self) -> list[str]:
        """All arms but the reserved ones, sorted."""
        exposed = {arm for arms in self.exposures.values() for arm in arms}
        answered = {arm for arms in self.outcomes.values() for arm in arms}
        return sorted((exposed | answered) - set(RESERVED))

    def exposed(self, arm: str) -> int:
        """Return how many predictions an arm made."""
        return sum(arms.get(arm, 0) for arms in self.exposures.values())


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean or a difference; what too few clusters or numbers out of range leave open is None."""

    value: float | None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    """Bounds of the 95 % interval."""


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm: predictions, outcomes, and the mean of one metric."""

    arm: str
    exposures: int
    n: int
    clusters: int
    mean: Estimate
    difference: Estimate | None = None
    """The mean less that of the control; None for the control itself and for reserved arms."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The arms of one metric."""

    metric: str
    cluster: str
    """What the unit of analysis is, and why."""
    arms: tuple[ArmResult, ...]
    """The control is the first."""
    reserved: tuple[ArmResult, ...]
    """Fallback and direct, kept out of the comparison."""


def gather(rows: Iterable[tuple[str, AbMessage]]) -> Totals:
    """Add up the latest messages of all devices; those of one device are in order of database and revision.

    Parts of one database may be of different revisions while a new one arrives, and a row may have moved from
    one to another: the newest row of an arm, bucket and metric counts, once.
    """
    totals = Totals()
    latest: dict[tuple[str, str], list[AbMessage]] = {}
    for device, message in rows:
        latest.setdefault((device, message.database), []).append(message)
    for (device, _), messages in latest.items():
        ordered = sorted(messages, key=lambda message: message.revision)
        exposed = totals.exposures.setdefault(device, {})
        for arm, count in {arm: n for message in ordered for arm, n in message.exposures.items()}.items():
            exposed[arm] = exposed.get(arm, 0) + count
        newest = {(row.metric, row.arm, row.bucket): row for message in ordered for row in message.sums}
        for row in newest.values():
            arms = totals.outcomes.setdefault(row.metric, {})
            clusters = arms.setdefault(row.arm, {})
            found = clusters.setdefault((device, row.bucket), Sum())
            found.n += row.n
            found.total += row.sum
    return totals


def compare(totals: Totals, metric: str, order: Sequence[str] = (), by: str = "auto") -> Comparison:
    """Compare the arms of a metric with the first of `order`, else of the alphabet.

    `by` is what a cluster is: `device`, `bucket` (of a device), or `auto`.
    """
    arms = [arm for arm in order if arm not in RESERVED]
    arms += [arm for arm in totals.arms if arm not in arms]
    outcomes = totals.outcomes.get(metric, {})
    by, reason = _cluster(totals, outcomes) if by == "auto" else (by, "as asked for")
    clustered = {arm: _clusters(outcomes.get(arm, {}), by) for arm in (*arms, *RESERVED)}
    control = clustered[arms[0]] if arms else {}
    results = [
        ArmResult(
            arm,
            totals.exposed(arm),
            _n(clustered[arm]),
            len(clustered[arm]),
            mean(clustered[arm]),
            None if place == 0 else difference(clustered[arm], control),
        )
        for place, arm in enumerate(arms)
    ]
    reserved = [
        ArmResult(arm, totals.exposed(arm), _n(clustered[arm]), len(clustered[arm]), mean(clustered[arm]))
        for arm in RESERVED
        if clustered[arm] or totals.exposed(arm)
    ]
    name = "device" if by == "device" else "bucket of a device"
    return Comparison(metric, f"{name}, {reason}", tuple(results), tuple(reserved))


def mean(clusters: Mapping[Hashable, Sum]) -> Estimate:
    """Estimate an arm's mean."""
    residuals, value = _linearised(clusters)
    return _estimate(value, _variance(list(residuals.values())), len(residuals) - 1)


def difference(arm: Mapping[Hashable, Sum], control: Mapping[Hashable, Sum]) -> Estimate:
    """Estimate the arm's mean less the control's."""
    of_arm, value = _linearised(arm)
    of_control, base = _linearised(control)
    if value is None or base is None:
        return Estimate(None)
    variances = _variance(list(of_arm.values())), _variance(list(of_control.values()))
    if None in variances:
        return _estimate(value - base, None, 0)
    if of_arm.keys() & of_control.keys():
        both = [of_arm.get(key, 0.0) - of_control.get(key, 0.0) for key in of_arm.keys() | of_control.keys()]
        return _estimate(value - base, _variance(both), len(both) - 1)
    first, second = (variance or 0.0 for variance in variances)
    return _estimate(value - base, first + second, _welch(first, len(of_arm), second, len(of_control)))


def is_by_device(totals: Totals) -> bool:
    """Say whether each device made predictions of one arm only, and every arm has several devices."""
    assigned = [
        [arm for arm, count in arms.items() if count and arm not in RESERVED]
        for arms in totals.exposures.values()
    ]
    alone = [arms[0] for arms in assigned if len(arms) == 1]
    return all(len(arms) <= 1 for arms in assigned) and all(alone.count(arm) > 1 for arm in set(alone))


def _cluster(totals: Totals, outcomes: Mapping[str, Mapping[tuple[str, int], Sum]]) -> tuple[str, str]:
    devices = {device for clusters in outcomes.values() for device, _ in clusters}
    if len(devices) > 1 and is_by_device(totals):
        return "device", "since each device runs one arm"
    if len(devices) >= MANY_DEVICES:
        return "device", f"since its outcomes depend on each other and {len(devices)} devices are enough"
    return "bucket", (
        f"since {len(devices)} device{'s are' if len(devices) != 1 else ' is'} too few to stand for others: "
        "the intervals hold for these devices"
    )


def _clusters(outcomes: Mapping[tuple[str, int], Sum], by: str) -> dict[Hashable, Sum]:
    clusters: dict[Hashable, Sum] = {}
    for (device, bucket), part in outcomes.items():
        if part.n:
            found = clusters.setdefault(device if by == "device" else (device, bucket), Sum())
            found.n += part.n
            found.total += part.total
    return clusters


def _n(clusters: Mapping[Hashable, Sum]) -> int:
    return sum(part.n for part in clusters.values())


def _linearised(clusters: Mapping[Hashable, Sum]) -> tuple[dict[Hashable, float], float | None]:
    """Return each cluster's part in the error of the mean, and the mean."""
    n = _n(clusters)
    if n == 0:
        return {}, None
    value = math.fsum(part.total / n for part in clusters.values())
    return {key: part.total / n - value * (part.n / n) for key, part in clusters.items()}, value


def _variance(residuals: Sequence[float]) -> float | None:
    """Return the variance of a sum of independent parts whose mean is 0; None for fewer than two."""
    count = len(residuals)
    return None if count < 2 else count / (count - 1) * math.fsum(part * part for part in residuals)


def _welch(first: float, n_first: int, second: float, n_second: int) -> float:
    """Return Welch and Satterthwaite's degrees of freedom of a sum of two variances."""
    if first + second == 0:
        return n_first + n_second - 2
    share = first / (first + second)
    return 1 / (share**2 / (n_first - 1) + (1 - share) ** 2 / (n_second - 1))


def _estimate(value: float | None, variance: float | None, freedom: float) -> Estimate:
    if value is None or not math.isfinite(value):
        return Estimate(None)
    if variance is None or freedom <= 0 or not math.isfinite(variance):
        return Estimate(value)
    error = math.sqrt(variance)
    half = error * float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
    return Estimate(value, error, value - half, value + half)
