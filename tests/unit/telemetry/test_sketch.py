import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.telemetry.sketch import ACCURACY, Sketch, merged

VALUES = st.lists(st.floats(1e-8, 1e8), min_size=1, max_size=200)
SHARES = st.floats(0, 1)


def sketch_of(values: list[float]) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return sketch


@given(VALUES, SHARES)
def test_a_quantile_is_right_to_the_promised_accuracy(values: list[float], q: float) -> None:
    exact = sorted(values)[math.floor(q * (len(values) - 1))]
    assert sketch_of(values).quantile(q) == pytest.approx(exact, rel=ACCURACY * 1.0001)


@given(st.lists(VALUES, min_size=1, max_size=5), SHARES)
def test_merged_sketches_are_the_sketch_of_all_values(parts: list[list[float]], q: float) -> None:
    whole = sketch_of([value for part in parts for value in part])
    together = merged(sketch_of(part) for part in parts)
    assert (together.count, together.quantile(q)) == (whole.count, whole.quantile(q))
    assert together.total == pytest.approx(whole.total)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=50), SHARES)
def test_a_sketch_survives_json(values: list[float], q: float) -> None:
    sketch = sketch_of([min(value, 1e12) for value in values])
    again = Sketch.from_builtins(msgspec.json.decode(msgspec.json.encode(sketch.to_builtins())))
    assert (again.count, again.quantile(q), again.total) == (sketch.count, sketch.quantile(q), sketch.total)


def test_nought_and_what_is_outside_the_range_is_counted() -> None:
    sketch = sketch_of([0.0, -1.0, 1e-12, 1e30])
    assert sketch.count == 4
    assert sketch.quantile(0.5) == 0.0
    assert sketch.quantile(1.0) == pytest.approx(1e9, rel=ACCURACY)
    assert Sketch().quantile(0.5) == 0.0
    assert Sketch.from_builtins({}).count == 0


@pytest.mark.parametrize(
    "content",
    [
        {"accuracy": 0.02, "total": 1.0, "zeros": 0, "buckets": []},
        {"accuracy": 0.01, "zeros": 0, "buckets": []},
        {"accuracy": 0.01, "total": 1.0, "zeros": -1, "buckets": []},
        {"accuracy": 0.01, "total": 1.0, "zeros": 0, "buckets": [[1]]},
        {"accuracy": 0.01, "total": 1.0, "zeros": 0, "buckets": [[999999, 1]]},
        {"accuracy": 0.01, "total": 1.0, "zeros": 0, "buckets": 3},
    ],
)
def test_what_is_no_sketch_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Sketch.from_builtins(content)
