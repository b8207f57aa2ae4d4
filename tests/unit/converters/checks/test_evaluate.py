import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from converters.checks import evaluate
from edge_agent.documents.tensors import TensorSpec

SCORES = TensorSpec("scores", "FP32", (1, 4))
FLOATS = npst.arrays("float32", (1, 4), elements=st.floats(-1e3, 1e3, width=32))


def answers(*rows: list[float]) -> list[dict[str, np.ndarray]]:
    return [{"scores": np.array([row], np.float32)} for row in rows]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=5))
def test_what_was_seen_is_within_its_own_tolerance(pairs) -> None:
    want = [{"scores": one} for one, _ in pairs]
    got = [{"scores": other} for _, other in pairs]
    seen = evaluate.errors(want, got)
    scale = evaluate.scales([SCORES], want, quantized=False)

    tolerance = evaluate.tolerances([SCORES], seen, scale, "fp32")["scores"]

    for one, other in zip(want, got, strict=True):
        assert (np.abs(one["scores"] - other["scores"]) <= tolerance.atol + tolerance.rtol).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=5))
def test_equal_answers_agree_fully(rows) -> None:
    same = [{"scores": row} for row in rows]
    scale = evaluate.scales([SCORES], same, quantized=False)

    assert evaluate.errors(same, same) == {"scores": 0.0}
    for classifier in (True, False):
        assert evaluate.agreement(same, same, "scores", scale, classifier=classifier) == 1.0


def test_agreement_of_classifiers_counts_classes() -> None:
    want = answers([0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1])
    got = answers([0.4, 0.3, 0.2, 0.1], [0.5, 0.4, 0.1, 0.0])

    assert evaluate.agreement(want, got, "scores", {"scores": 1.0}, classifier=True) == 0.5


def test_agreement_of_others_is_the_normalised_error() -> None:
    want, got = answers([0, 0, 0, 10]), answers([1, 1, 1, 11])
    scale = evaluate.scales([SCORES], want, quantized=False)

    assert scale == {"scores": 10.0}
    assert evaluate.agreement(want, got, "scores", scale, classifier=False) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("rows", "classifier"),
    [
        ([[0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0]], True),
        ([[0.5, 0.5, 0.5, 0.5]], False),
        ([[2, -1, 0, 0]], False),
    ],
)
def test_probabilities_make_a_classifier(rows: list[list[float]], classifier: bool) -> None:
    assert evaluate.is_classifier(answers(*rows), "scores") is classifier


def test_integer_outputs_get_no_floor() -> None:
    chosen = TensorSpec("class", "INT64", (1,))

    assert evaluate.tolerances([chosen], {"class": 0.0}, {"class": 9.0}, "int8")["class"].atol == 0


def test_eight_bit_outputs_of_quantized_models_have_256_steps() -> None:
    spec = TensorSpec("p", "UINT8", (1, 1))
    same = [{"p": np.array([[3]], np.uint8)}]

    assert evaluate.scales([spec], same, quantized=True) == {"p": 256.0}
    assert evaluate.scales([spec], same, quantized=False) == {"p": 1.0}


def test_runtimes_may_be_as_far_apart_as_quantization_is_from_float() -> None:
    scale = {"scores": 100.0}

    assert evaluate.same_answers({"scores": 6.0}, {"scores": 11.0}, scale, "int8") is None
    wrong = evaluate.same_answers({"scores": 6.0}, {"scores": 80.0}, scale, "int8")
    assert wrong is not None
    assert "80 % of its range" in wrong


def test_runtimes_that_are_nan_or_of_another_shape_are_wrong() -> None:
    want = answers([0, 0, 0, 1])
    nan = evaluate.errors(want, answers([np.nan, 0, 0, 1]))
    other = evaluate.errors(want, [{"scores": np.zeros((1, 3), np.float32)}])

    for apart in (nan, other):
        assert apart == {"scores": float("inf")}
        assert evaluate.same_answers({"scores": 0.0}, apart, {"scores": 1.0}, "int8")
        assert evaluate.meaningless(apart, {"scores": 1.0})


def test_equal_infinities_are_no_error() -> None:
    same = answers([np.inf, -np.inf, np.nan, 1])

    assert evaluate.errors(same, same) == {"scores": 0.0}


def test_error_beyond_half_of_the_range_is_meaningless() -> None:
    assert evaluate.meaningless({"scores": 0.5}, {"scores": 1.0}) is None
    assert evaluate.meaningless({"scores": 0.51}, {"scores": 1.0})


def test_clear_answers_come_first_in_their_own_order() -> None:
    rows = answers([0.5, 0.5, 0, 0], [0.9, 0.1, 0, 0], [0.6, 0.4, 0, 0], [1, 0, 0, 0])

    assert evaluate.clearest_first(rows, "scores").tolist() == [1, 3, 0, 2]


def texts(*rows: str, dtype: type = object) -> list[dict[str, np.ndarray]]:
    return [{"label": np.array([row.encode()], dtype)} for row in rows]


class TestText:
    """Answers come as fixed-width bytes from a worker, and as objects from an engine."""

    LABEL = TensorSpec("label", "BYTES", (-1,))

    @pytest.mark.parametrize("dtype", [object, np.bytes_])
    def test_is_right_or_wrong(self, dtype: type) -> None:
        want = texts("cat", "dog")

        assert evaluate.errors(want, texts("cat", "dog", dtype=dtype)) == {"label": 0.0}
        assert evaluate.errors(want, texts("cat", "cow", dtype=dtype)) == {"label": float("inf")}

    def test_has_the_scale_one_and_no_tolerance(self) -> None:
        scale = evaluate.scales([self.LABEL], texts("cat", "dog"), quantized=False)

        assert scale == {"label": 1.0}
        assert evaluate.tolerances([self.LABEL], {"label": 0.0}, scale, "int8")["label"].atol == 0
        said = evaluate.meaningless({"label": float("inf")}, scale)
        assert said == "output 'label' has another shape or text, or values that are not finite"
        assert evaluate.same_answers({"label": 0.0}, {"label": float("inf")}, scale, "fp32")

    def test_counts_in_the_agreement_of_others(self) -> None:
        agreed = evaluate.agreement(
            texts("cat", "dog"), texts("cat", "cow"), "label", {"label": 1.0}, classifier=False
        )

        assert agreed == 0.5

    def test_is_not_what_classes_are_read_from(self) -> None:
        assert evaluate.first_output([self.LABEL, SCORES]) == "scores"
        assert evaluate.first_output([self.LABEL]) == "label"
        assert not evaluate.is_classifier(texts("cat"), "label")
        assert evaluate.clearest_first(texts("b", "a"), "label").tolist() == [0, 1]


class TestClassNumbers:
    def numbers(self, *rows: int, dtype: type = np.int64) -> list[dict[str, np.ndarray]]:
        return [{"class": np.array([row], dtype)} for row in rows]

    def test_make_a_classifier(self) -> None:
        assert evaluate.is_classifier(self.numbers(3, 1), "class")
        assert not evaluate.is_classifier(self.numbers(3, 1, dtype=np.uint8), "class")

    def test_agree_where_they_are_equal(self) -> None:
        want, got = self.numbers(3, 1, 2, 2), self.numbers(3, 2, 2, 2)

        assert evaluate.agreement(want, got, "class", {"class": 2.0}, classifier=True) == 0.75
        assert evaluate.errors(want, got) == {"class": 1.0}
        assert evaluate.scales([TensorSpec("class", "INT64", (-1,))], want, quantized=False) == {"class": 2.0}


def test_nan_in_a_later_output_is_no_agreement() -> None:
    want = [{"a": np.zeros(3), "b": np.ones(3)}] * 2
    got = [{"a": np.zeros(3), "b": np.full(3, np.nan)}] * 2

    assert evaluate.agreement(want, got, "a", {"a": 1.0, "b": 1.0}, classifier=False) == 0.0
