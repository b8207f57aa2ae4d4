"""How good a model is by its answers and the targets: accuracy, top-k, F1, MAE, RMSE, a caller's own function.

Classes are read from the first output: the place of its largest value; where it is one integer of at least 32
bits, that is the class itself; where it is one float, that is the probability of class 1 beside class 0.
Definitions of scikit-learn: `accuracy_score`,
`f1_score(average="macro", zero_division=0)` over the classes that occur in the targets or answers,
`mean_absolute_error` and `root_mean_squared_error` over all values together. The class is among the top k when
fewer than k others have larger values, or equal ones and come before it.

A loss is told in points, so that one limit suits all metrics: hundredths of a share; for MAE and RMSE the
increase in hundredths of the range of the targets; for a caller's own function hundredths of the float model's
score, or of 1 where that is 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Array, Sample
from converters.checks.settings import EvaluateSettings
from converters.data.samples import Targets, classes_of
from converters.errors import DataError, said
from converters.importing import imported, is_importable
from edge_agent.documents.errors import RequestError

AGREEMENT: Final = "agreement"
ACCURACY: Final = "accuracy"
EVEN: Final = 0.5
"""Where one probability turns from class 0 to class 1."""

OwnMetric = Callable[[Mapping[str, Array], Targets | None], Any]
"""A caller's metric: of answers by output name, stacked [n, ...], and targets; higher is better."""

Score = Callable[[Sequence[Sample], Targets, str], float]
"""The score of answers to as many targets, by the output that is named."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What scores are scores of, as plain values: what a report says of it, and what crosses processes."""

    name: str = AGREEMENT
    """As the manifest has it: accuracy, top-5, f1, mae, rmse, agreement, or the function's name."""
    is_share: bool = True
    """Scores go from 0 to 1 and are shown in percent."""
    higher_is_better: bool = True

    def text(self, score: float) -> str:
        """Return a score for a person."""
        return f"{100 * score:.2f} %" if self.is_share else f"{score:.4g}"


@dataclass(frozen=True, slots=True)
class Scorer(Metric):
    """A metric with the way to score a model by it, and to say how much a variant lost."""

    own: Callable[[Sequence[Sample], Targets | None, str], float] | None = None
    """None for agreement, which is no property of one model."""
    reads_classes: bool = False
    """The targets are class numbers."""
    unit: float | None = 1.0
    """A hundredth of this is a point; None takes the float model's own score."""

    @property
    def plain(self) -> Metric:
        """What a report keeps of it."""
        return Metric(self.name, self.is_share, self.higher_is_better)

    def score(self, answers: Sequence[Sample], targets: Targets | None, first: str) -> float | None:
        """Return the score, None for agreement; raises DataError where answers and targets do not fit."""
        return None if self.own is None else self.own(answers, targets, first)

    def drop(self, of_float: float, of_variant: float) -> float:
        """Return the points that a variant lost, negative if it won; infinite where its score is not finite."""
        if not np.isfinite(of_variant):
            return float("inf")
        unit = abs(of_float) if self.unit is None else self.unit
        lost = of_float - of_variant if self.higher_is_better else of_variant - of_float
        return 100 * lost / (unit or 1.0)


def choose(settings: EvaluateSettings, targets: Targets | None, function: OwnMetric | None = None) -> Scorer:
    """Return the metric that the settings name, or a caller's function; `auto` goes by the targets.

    Raises RequestError for a name that is none, for targets that it cannot use, and for a function that cannot
    be imported.
    """
    if function is not None:
        return _own(function, getattr(function, "__name__", "metric"))
    name = settings.metric
    if is_importable(name):
        return _own(imported(name, Path(settings.import_from)), name.rpartition(":")[2])
    if name not in _NAMES:
        raise RequestError(
            f"There is no metric '{name}'; choose among {', '.join(_NAMES)}, or give package.module:function."
        )
    if name == "auto":
        name = _usual(targets)
    if name == AGREEMENT:
        return Scorer(AGREEMENT)
    if targets is None:
        raise RequestError(f"The metric {name} needs labels; give them with the data, or take agreement.")
    if name in ("mae", "rmse"):
        return Scorer(
            name, own=_required(_MEASURES[name]), higher_is_better=False, is_share=False, unit=_range(targets)
        )
    if classes_of(targets) is None:
        raise RequestError(
            f"The metric {name} needs class numbers as labels, these are values; take mae or rmse."
        )
    if name == "top-k":
        return Scorer(f"top-{settings.top_k}", own=_required(_top(settings.top_k)), reads_classes=True)
    return Scorer(name, own=_required(_MEASURES[name]), reads_classes=True)


def classes(answers: Sequence[Sample], output: str) -> NDArray[np.int64]:
    """Return the class that each answer gives, [n]."""
    return np.array([class_of(answer[output]) for answer in answers], np.int64)


def class_of(scores: NDArray[Any]) -> int:
    """Return the class of one answer."""
    if is_class_number(scores):
        return int(scores.reshape(-1)[0])
    return int(scores.reshape(-1)[0] > EVEN) if is_probability(scores) else int(np.argmax(scores))


def is_class_number(scores: NDArray[Any]) -> bool:
    """Say whether an answer is the number of a class; one value of 8 or 16 bits is a quantized score."""
    return scores.dtype.kind in "iu" and scores.dtype.itemsize >= 4 and scores.size == 1


def is_probability(scores: NDArray[Any]) -> bool:
    """Say whether an answer is one float, which is the probability of the second of two classes."""
    return scores.dtype.kind == "f" and scores.size == 1


def class_count(scores: NDArray[Any]) -> int | None:
    """Return how many classes an answer tells apart; None where it is a class number, which has no bound."""
    if is_class_number(scores):
        return None
    return 2 if is_probability(scores) else scores.size


def per_class(answers: Sequence[Sample], targets: Targets, first: str) -> dict[int, float]:
    """Return the share of each class's samples that are recognised, by class number, for those that occur."""
    right = classes(answers, first) == targets
    return {int(number): float(np.mean(right[targets == number])) for number in np.unique(targets)}


def stacked(answers: Sequence[Sample]) -> dict[str, Array]:
    """Return the answers by output, [n, ...]; an axis of one run, which the models have, is not kept.

    Raises DataError where answers differ in shape.
    """
    found = {}
    for name in answers[0]:
        rows = [answer[name] for answer in answers]
        if len({row.shape for row in rows}) != 1:
            raise DataError(f"The answers '{name}' differ in shape, so no metric can be taken; take agreement.")
        has_batch = rows[0].shape[:1] == (1,)
        found[name] = np.concatenate(rows) if has_batch else np.stack(rows)
    return found


def accuracy(answers: Sequence[Sample], targets: Targets, first: str) -> float:
    """Return the share of samples whose class is the target."""
    return float(np.mean(classes(answers, first) == targets))


def f1(answers: Sequence[Sample], targets: Targets, first: str) -> float:
    """Return the mean over classes of the harmonic mean of precision and recall."""
    given = classes(answers, first)
    scores = []
    for number in np.union1d(given, targets):
        both = np.sum((given == number) & (targets == number))
        scores.append(2 * both / (np.sum(given == number) + np.sum(targets == number)))
    return float(np.mean(scores))


def top_k(answers: Sequence[Sample], targets: Targets, first: str, k: int) -> float:
    """Return the share of samples whose class is among the k largest; raises DataError with fewer classes."""
    found = []
    for answer, target in zip(answers, targets, strict=True):
        scores = answer[first].reshape(-1)
        if is_class_number(answer[first]) or scores.size < k:
            have = "a class number alone" if is_class_number(answer[first]) else f"{scores.size} classes"
            raise DataError(f"Output '{first}' has {have}, so top-{k} says nothing; take a smaller top_k.")
        before = np.sum(scores > scores[target]) + np.sum(scores[:target] == scores[target])
        found.append(before < k)
    return float(np.mean(found))


def mae(answers: Sequence[Sample], targets: Targets, first: str) -> float:
    """Return the mean absolute difference from the targets."""
    return float(np.mean(np.abs(_differences(answers, targets, first))))


def rmse(answers: Sequence[Sample], targets: Targets, first: str) -> float:
    """Return the square root of the mean squared difference from the targets."""
    return float(np.sqrt(np.mean(_differences(answers, targets, first) ** 2)))


_MEASURES: Final[dict[str, Score]] = {ACCURACY: accuracy, "f1": f1, "mae": mae, "rmse": rmse}
_NAMES: Final = ("auto", ACCURACY, "top-k", "f1", "mae", "rmse", AGREEMENT)


def _usual(targets: Targets | None) -> str:
    if targets is None:
        return AGREEMENT
    return "mae" if classes_of(targets) is None else ACCURACY


def _required(measure: Score) -> Callable[[Sequence[Sample], Targets | None, str], float]:
    def score(answers: Sequence[Sample], targets: Targets | None, first: str) -> float:
        if targets is None:
            raise DataError("These samples have no labels, which the metric needs.")
        return measure(answers, targets, first)

    return score


def _top(k: int) -> Score:
    return lambda answers, targets, first: top_k(answers, targets, first, k)


def _range(targets: Targets) -> float:
    return float(np.ptp(targets)) if targets.size else 1.0


def _differences(answers: Sequence[Sample], targets: Targets, first: str) -> NDArray[np.float64]:
    rows = stacked([{first: answer[first]} for answer in answers])[first].reshape(len(targets), -1)
    wanted = np.asarray(targets, np.float64).reshape(len(targets), -1)
    if rows.shape != wanted.shape:
        raise DataError(
            f"Output '{first}' has {rows.shape[1]} values a sample and the labels {wanted.shape[1]}; give as "
            "many."
        )
    return rows.astype(np.float64) - wanted


def _own(function: OwnMetric, name: str) -> Scorer:
    def score(answers: Sequence[Sample], targets: Targets | None, first: str) -> float:
        try:
            found = float(function(stacked(answers), targets))
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"The metric {name} failed: {said(error)}.") from error
        return found

    return Scorer(name, own=score, is_share=False, unit=None)
