"""Picks such as `drop<=0.5pt, fastest`: constraints, then what is best among what meets them. Pure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from converters.errors import GateError
from edge_agent.documents.errors import RequestError

Quantity = Literal["drop", "size", "latency", "agreement"]
Goal = Literal["fastest", "smallest", "most-accurate"]

GRAMMAR: Final = (
    "a pick is constraints and then a goal, separated by commas, as in 'drop<=0.5pt, size<=200kB, fastest': "
    "constraints on drop (pt), size (B, kB, MB), latency (ms) and agreement (%) with <= or >=, and one goal of "
    "fastest, smallest, most-accurate"
)

_UNITS: Final[dict[str, dict[str, float]]] = {
    "drop": {"pt": 1.0, "": 1.0},
    "size": {"b": 1.0, "kb": 1e3, "mb": 1e6},
    "latency": {"ms": 1.0, "": 1.0},
    "agreement": {"%": 1.0, "": 1.0},
}
_CONSTRAINT: Final = re.compile(r"([a-z]+)\s*(<=|>=)\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z%]*)", re.IGNORECASE)
_SLACK: Final = 1e-9
"""Drops are differences of shares: a drop of exactly the limit must not fail on the last bit."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a pick looks at."""

    quality: float
    """Accuracy, or agreement without labels, 0 to 1."""
    drop: float
    """Points lost."""
    size_bytes: int
    """As it travels."""
    latency_ms: float
    agreement: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One limit, in points, bytes, milliseconds or per cent."""

    quantity: Quantity
    at_most: bool
    limit: float
    text: str
    """As it was written."""

    def allows(self, result: Result) -> bool:
        """Say whether a result keeps to the limit."""
        value = _VALUES[self.quantity](result)
        return value <= self.limit + _SLACK if self.at_most else value >= self.limit - _SLACK


@dataclass(frozen=True, slots=True)
class Pick:
    """Constraints, and what to prefer among what meets them all."""

    constraints: tuple[Constraint, ...]
    goal: Goal

    @property
    def max_drop(self) -> float | None:
        """The tightest limit on the drop, in points; None where there is none."""
        limits = [one.limit for one in self.constraints if one.quantity == "drop" and one.at_most]
        return min(limits, default=None)


def parse(text: str) -> Pick:
    """Read a pick; raises RequestError with the part that is wrong and the grammar."""
    *constraints, goal = (part.strip() for part in text.split(","))
    known = next((one for one in get_args(Goal) if one == goal.lower()), None)
    if known is None:
        raise RequestError(f"--pick '{text}' does not end with a goal but with '{goal}'; {GRAMMAR}.")
    return Pick(tuple(_constraint(part, text) for part in constraints), known)


def choose(pick: Pick, results: Sequence[Result]) -> int:
    """Return the index of the best result; of equal ones the smaller, then the better, then the first.

    Raises GateError, naming the constraint that most results miss, when none meets them all.
    """
    left = [
        index for index, result in enumerate(results) if all(one.allows(result) for one in pick.constraints)
    ]
    if not left:
        raise GateError(_nothing_left(pick, results))
    return min(left, key=lambda index: (*_RANKS[pick.goal](results[index]), index))


def _constraint(part: str, text: str) -> Constraint:
    found = _CONSTRAINT.fullmatch(part)
    if found is None:
        raise RequestError(f"--pick '{text}' has the part '{part}', which is no constraint; {GRAMMAR}.")
    name, sign, number, unit = found.groups()
    quantity = next((one for one in get_args(Quantity) if one == name.lower()), None)
    if quantity is None:
        raise RequestError(f"--pick '{text}' limits '{name}', which is not measured; {GRAMMAR}.")
    units = _UNITS[quantity]
    if unit.lower() not in units:
        known = ", ".join(one for one in ("pt", "B", "kB", "MB", "ms", "%") if one.lower() in units)
        said = f"the unit '{unit}'" if unit else "no unit"
        raise RequestError(f"--pick '{text}' gives '{part}' {said}, {quantity} takes {known}; {GRAMMAR}.")
    return Constraint(quantity, sign == "<=", float(number) * units[unit.lower()], part)


def _nothing_left(pick: Pick, results: Sequence[Result]) -> str:
    if not results:
        return "Nothing was measured that could be picked; see the reasons of the trials."
    met = {one: sum(map(one.allows, results)) for one in pick.constraints}
    hardest = min(met, key=lambda one: met[one])
    values = [_VALUES[hardest.quantity](result) for result in results]
    nearest = min(values) if hardest.at_most else max(values)
    unit = {"drop": "pt", "size": "B", "latency": "ms", "agreement": "%"}[hardest.quantity]
    if met[hardest]:
        return f"No result meets all of: {', '.join(one.text for one in met)}; relax one of them."
    return f"No result meets {hardest.text}: the nearest has {nearest:.4g} {unit}; relax it."


_VALUES: Final[dict[Quantity, Callable[[Result], float]]] = {
    "drop": lambda result: result.drop,
    "size": lambda result: result.size_bytes,
    "latency": lambda result: result.latency_ms,
    "agreement": lambda result: 100 * result.agreement,
}
_RANKS: Final[dict[Goal, Callable[[Result], tuple[float, ...]]]] = {
    "fastest": lambda result: (result.latency_ms, result.size_bytes, -result.quality),
    "smallest": lambda result: (result.size_bytes, -result.quality, result.latency_ms),
    "most-accurate": lambda result: (-result.quality, result.size_bytes, result.latency_ms),
}
