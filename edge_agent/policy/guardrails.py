"""Whether a version that was activated some time ago may stay, by what it has done since. Pure.

A plan is on trial for its bake time. Each of its versions that did not serve before is held against the
guardrails of its model, and against what served the model before. So that chance alone brings nobody back, a
share of the requests counts only as far as it is certain: by the lower end of Wilson's interval at three
standard errors. Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
1927.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from edge_agent.documents.plan import GuardrailPlan
from edge_agent.policy.run_times import beyond, quantile_ns

STANDARD_ERRORS: Final = 3.0
SLACK_NS: Final = 5_000_000
"""How much longer than the old p99 a run may take at any rate: a machine's own hiccups are of this size."""
TAIL: Final = 0.01
SLOW_SHARE: Final = 0.05
"""The share of runs that must certainly be slower than allowed: a single pause of the machine, which holds up
all that wait at that moment, is more than 1 % of few runs."""
RUNS_PER_REQUEST: Final = 5
"""A tail takes that many times as many runs to judge as `min_requests`."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a version has done: requests answered, those failed by its own fault, and how long runs took."""

    requests: int = 0
    errors: int = 0
    runs: dict[int, int] = field(default_factory=dict)
    """By bucket of `policy.run_times`."""

    @property
    def error_rate(self) -> float:
        """The share of requests that failed; 0 if there were none."""
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Bake:
    """A plan on trial. Kept on disk, so that it goes on after a restart."""

    versions: tuple[str, ...]
    """Keys of the versions that did not serve before."""
    bake_s: float
    baked_s: float = 0.0
    """How long the plan has served."""
    seen: dict[str, Figures] = field(default_factory=dict)
    """What they have done meanwhile, by key."""
    before: dict[str, Figures] = field(default_factory=dict)
    """What the versions before them did, by model."""


def plus(one: Figures, other: Figures) -> Figures:
    """Add two figures up."""
    runs = dict(one.runs)
    for index, count in other.runs.items():
        runs[index] = runs.get(index, 0) + count
    return Figures(one.requests + other.requests, one.errors + other.errors, runs)


def since(now: Figures, before: Figures) -> Figures:
    """Return what was done between two looks; all of it where counting began again meanwhile."""
    if now.requests < before.requests:
        return now
    runs = {index: count - before.runs.get(index, 0) for index, count in now.runs.items()}
    return Figures(
        now.requests - before.requests,
        max(0, now.errors - before.errors),
        {index: count for index, count in runs.items() if count > 0},
    )


def breach(seen: Figures, before: Figures, limits: GuardrailPlan) -> str | None:
    """Return why a version must go, as a clause, or None; `before` is what served the model until then."""
    return _errors(seen, before, limits) or _slowness(seen, before, limits)


def certain_share(hits: int, of: int) -> float:
    """Return the share that at least holds, for as many hits among so many: Wilson's lower bound."""
    if of == 0:
        return 0.0
    share, z2 = hits / of, STANDARD_ERRORS**2
    middle = share + z2 / (2 * of)
    margin = STANDARD_ERRORS * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return max(0.0, (middle - margin) / (1 + z2 / of))


def worst(bake: Bake, models: Mapping[str, str], limits: Mapping[str, GuardrailPlan]) -> tuple[str, str] | None:
    """Return the first version on trial that must go, by key, and why; `models` names the model of each key."""
    for key in bake.versions:
        model = models[key]
        reason = breach(bake.seen.get(key, Figures()), bake.before.get(model, Figures()), limits[model])
        if reason is not None:
            return key, reason
    return None


def allowed_errors(before: Figures, limits: GuardrailPlan) -> float | None:
    """Return the share of requests that may fail, None for any."""
    # Errors that the old version had as often are not repaired by going back to it.
    return None if limits.max_error_rate is None else max(limits.max_error_rate, before.error_rate)


def slowest_ns(before: Figures, limits: GuardrailPlan) -> float | None:
    """Return how long 99 of 100 runs may take, None where nothing is to be said of that."""
    if limits.max_p99_ratio is None or sum(before.runs.values()) < RUNS_PER_REQUEST * limits.min_requests:
        return None
    return limits.max_p99_ratio * quantile_ns(before.runs, 1 - TAIL) + SLACK_NS


def _errors(seen: Figures, before: Figures, limits: GuardrailPlan) -> str | None:
    allowed = allowed_errors(before, limits)
    if allowed is None or seen.requests < limits.min_requests:
        return None
    if certain_share(seen.errors, seen.requests) <= allowed:
        return None
    return f"{seen.errors} of {seen.requests} requests failed, more than {100 * allowed:.3g} %"


def _slowness(seen: Figures, before: Figures, limits: GuardrailPlan) -> str | None:
    limit_ns, runs = slowest_ns(before, limits), sum(seen.runs.values())
    if limit_ns is None or runs < RUNS_PER_REQUEST * limits.min_requests:
        return None
    if certain_share(beyond(seen.runs, limit_ns), runs) <= SLOW_SHARE:
        return None
    old_ns, now_ns = (quantile_ns(figures.runs, 1 - TAIL) for figures in (before, seen))
    return (
        f"the p99 of {runs} runs is {now_ns / 1e6:.3g} ms, more than {limit_ns / 1e6:.3g} ms, with "
        f"{old_ns / 1e6:.3g} ms before"
    )
