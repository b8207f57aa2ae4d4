from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from converters.checks import metrics
from converters.checks.settings import EvaluateSettings
from converters.errors import DataError
from edge_agent.documents.errors import RequestError

CLASSES = 4
Answers = list[dict[str, np.ndarray]]


def scored(rows: np.ndarray, batch: bool = True) -> Answers:
    return [{"scores": row[None] if batch else row} for row in np.asarray(rows, np.float32)]


def chosen(name: str, targets: np.ndarray | None, **others: Any) -> metrics.Metric:
    return metrics.choose(EvaluateSettings(metric=name, **others), targets)


@st.composite
def classified(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores without ties, and targets that sklearn can number."""
    count = draw(st.integers(2, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    rows = random.permuted(np.tile(np.arange(CLASSES, dtype=np.float32), (count, 1)), axis=1)
    return rows, random.integers(0, draw(st.integers(1, CLASSES)), count)


@settings(max_examples=60, deadline=None)
@given(classified(), st.booleans(), st.integers(1, CLASSES - 1))
def test_classes_are_scored_as_scikit_learn_does(
    drawn: tuple[np.ndarray, np.ndarray], batch: bool, k: int
) -> None:
    rows, targets = drawn
    answers, given_ = scored(rows, batch), rows.argmax(axis=1)

    def score(name: str) -> float | None:
        return chosen(name, targets, top_k=k).score(answers, targets, "scores")

    assert score("accuracy") == pytest.approx(oracle.accuracy_score(targets, given_))
    assert score("f1") == pytest.approx(oracle.f1_score(targets, given_, average="macro", zero_division=0))
    want = oracle.top_k_accuracy_score(targets, rows, k=k, labels=np.arange(CLASSES))
    assert score("top-k") == pytest.approx(want)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 3), st.integers(0, 2**31), st.booleans())
def test_values_are_scored_as_scikit_learn_does(count: int, width: int, seed: int, flat: bool) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, width)).astype(np.float32)
    targets = random.normal(size=(count, width))
    given_targets = targets[:, 0] if flat and width == 1 else targets

    for name, want in (
        ("mae", oracle.mean_absolute_error(targets.ravel(), rows.ravel())),
        ("rmse", oracle.root_mean_squared_error(targets.ravel(), rows.ravel())),
    ):
        metric = chosen(name, given_targets)
        assert metric.score(scored(rows), given_targets, "scores") == pytest.approx(want)


@settings(max_examples=30, deadline=None)
@given(classified())
def test_recall_by_class(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    rows, targets = drawn

    found = metrics.per_class(scored(rows), targets, "scores")

    present = np.unique(targets)
    want = oracle.recall_score(targets, rows.argmax(axis=1), labels=present, average=None, zero_division=0)
    assert found == pytest.approx(dict(zip(present.tolist(), want, strict=True)))


def test_level_classes_go_to_the_first() -> None:
    answers = scored(np.array([[1, 1, 0]]))

    for target, hit in ((0, 1.0), (1, 0.0)):
        targets = np.array([target])
        assert (
            metrics.top_k(answers, targets, "scores", 1) == metrics.accuracy(answers, targets, "scores") == hit
        )
    assert metrics.top_k(answers, np.array([1]), "scores", 2) == 1.0


def test_class_numbers_are_the_class() -> None:
    answers = [{"class": np.array([number])} for number in (2, 0, 1)]

    assert metrics.classes(answers, "class").tolist() == [2, 0, 1]
    assert metrics.accuracy(answers, np.array([2, 0, 0]), "class") == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="has a class number alone, so top-5 says nothing"):
        chosen("top-k", np.array([0])).score(answers[:1], np.array([0]), "class")
    quantized = [{"class": np.array([[9]], np.uint8)}]
    assert metrics.classes(quantized, "class").tolist() == [0]


def test_top_k_of_fewer_classes_is_told() -> None:
    metric = chosen("top-k", np.array([0]))

    assert metric.name == "top-5"
    with pytest.raises(DataError, match="has 3 classes, so top-5 says nothing; take a smaller top_k"):
        metric.score(scored(np.array([[1, 2, 3]])), np.array([0]), "scores")


def test_automatic_choice_goes_by_the_targets() -> None:
    assert chosen("auto", None).name == "agreement"
    assert chosen("auto", np.array([0, 1])).name == "accuracy"
    assert chosen("auto", np.array([0.5, 1])).name == "mae"
    assert chosen("agreement", np.array([0, 1])).score([], np.array([0, 1]), "scores") is None
    assert chosen("mae", np.array([3, 5])).reads_classes is False


@pytest.mark.parametrize(
    ("name", "targets", "said"),
    [
        ("f2", None, "no metric 'f2'; choose among auto, accuracy, top-k, f1, mae, rmse, agreement"),
        ("accuracy", None, "accuracy needs labels"),
        ("mae", None, "mae needs labels"),
        ("f1", np.array([0.5]), "f1 needs class numbers as labels, these are values"),
        ("top-k", np.array([0.5]), "top-k needs class numbers"),
        ("no_such_module:score", np.array([0]), "Cannot import no_such_module"),
    ],
)
def test_metrics_that_cannot_be_taken(name: str, targets: np.ndarray | None, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        chosen(name, targets)


def test_answers_that_the_labels_do_not_fit() -> None:
    targets = np.zeros((2, 3))
    metric = chosen("mae", targets)

    with pytest.raises(DataError, match="has 2 values a sample and the labels 3"):
        metric.score(scored(np.zeros((2, 2))), targets, "scores")
    with pytest.raises(DataError, match="differ in shape"):
        metric.score([{"scores": np.zeros((1, 3))}, {"scores": np.zeros((1, 2))}], targets, "scores")
    with pytest.raises(DataError, match="have no labels"):
        metric.score(scored(np.zeros((2, 3))), None, "scores")


class TestPoints:
    def test_of_shares_are_hundredths(self) -> None:
        metric = chosen("accuracy", np.array([0, 1]))

        assert metric.drop(0.98, 0.97) == pytest.approx(1.0)
        assert metric.drop(0.97, 0.98) == pytest.approx(-1.0)
        assert metric.text(0.975) == "97.50 %"

    def test_of_errors_are_hundredths_of_the_range(self) -> None:
        metric = chosen("rmse", np.array([10.0, 60.0]))

        assert metric.drop(1.0, 1.5) == pytest.approx(1.0)
        assert metric.drop(1.5, 1.0) == pytest.approx(-1.0)
        assert metric.text(1.23456) == "1.235"
        assert chosen("rmse", np.array([7.0, 7.0])).drop(0.0, 0.5) == 50

    def test_of_a_function_are_hundredths_of_the_float_score(self) -> None:
        metric = metrics.choose(EvaluateSettings(), None, lambda answers, targets: 0)

        assert metric.drop(20.0, 19.8) == pytest.approx(1.0)
        assert metric.drop(-2.0, -2.02) == pytest.approx(1.0)
        assert metric.drop(0.0, -0.5) == 50

    @pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
    def test_of_what_is_no_number_are_endless(self, score: float) -> None:
        for name in ("mae", "accuracy"):
            assert chosen(name, np.array([0, 1])).drop(0.5, score) == float("inf")


class TestOwn:
    def test_gets_stacked_answers_and_targets(self) -> None:
        seen: list[Any] = []

        def own(answers: Any, targets: Any) -> float:
            seen.extend([answers["scores"].shape, answers["state"].shape, targets.tolist()])
            return 0.25

        metric = metrics.choose(EvaluateSettings(), np.array([1, 2, 3]), own)
        answers = [{"scores": np.zeros((1, 5)), "state": np.zeros((2, 4))}] * 3

        assert metric.score(answers, np.array([1, 2, 3]), "scores") == 0.25
        assert metric.name == "own"
        assert seen == [(3, 5), (3, 2, 4), [1, 2, 3]]

    def test_is_imported(self, tmp_path: Path) -> None:
        (tmp_path / "my_metric.py").write_text(
            "def kappa(answers, targets):\n    return len(answers['scores']) / 10\n"
        )

        metric = chosen("my_metric:kappa", None, import_from=str(tmp_path))

        assert metric.name == "kappa"
        assert metric.score(scored(np.zeros((3, 2))), None, "scores") == 0.3

    @pytest.mark.parametrize("answer", [None, "much", [1, 2], {}])
    def test_that_gives_no_number_is_told(self, answer: Any) -> None:
        metric = metrics.choose(EvaluateSettings(), None, lambda answers, targets: answer)

        with pytest.raises(DataError, match=r"The metric <lambda> failed: \w+Error"):
            metric.score(scored(np.zeros((1, 2))), None, "scores")
