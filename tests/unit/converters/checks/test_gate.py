import pytest

from converters.checks.gate import Gate, Measured, refusal

GOOD = Measured(size_bytes=1000, agreement=0.995, latency_ms=2.0, metric="accuracy", lost=100 * (0.98 - 0.97))


def test_drop_of_exactly_the_limit_passes() -> None:
    assert refusal(Gate(max_drop=1.0), GOOD) is None


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (Gate(max_drop=0.5), "loses 1.00 points of accuracy, 0.5 allowed"),
        (Gate(max_size_bytes=999), "1,000 bytes, 999 allowed"),
        (Gate(max_latency_ms=1.5), "takes 2.00 ms, 1.5 allowed"),
    ],
)
def test_limits(gate: Gate, said: str) -> None:
    reason = refusal(gate, GOOD)

    assert reason is not None
    assert said in reason


def test_without_labels_agreement_counts() -> None:
    reason = refusal(Gate(max_drop=0.4), Measured(1, agreement=0.99))

    assert reason is not None
    assert "points of agreement" in reason


def test_latency_that_this_host_cannot_tell_is_not_limited() -> None:
    assert refusal(Gate(max_latency_ms=0.1), Measured(1, agreement=1.0, latency_ms=None)) is None


def test_better_score_is_no_drop() -> None:
    assert refusal(Gate(max_drop=0), Measured(1, 0.9, metric="f1", lost=-1.0)) is None


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_score_that_is_no_number_never_passes(lost: float) -> None:
    reason = refusal(Gate(max_drop=50), Measured(1, 1.0, metric="rmse", lost=lost))

    assert reason is not None
    assert "points of rmse" in reason
