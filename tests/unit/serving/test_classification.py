"""Outputs as their best classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import DATATYPE_OF_NUMPY, Datatype, TensorSpec
from edge_agent.serving.classification import MAX_CLASSES, classes

ROWS = np.array([[0.5, 3.0, -1.0], [4.0, 1.0, 1.0]], np.float32)
NUMBERS = [name for name in DATATYPE_OF_NUMPY if name not in ("bool", "object")]


def spec(datatype: Datatype = "FP32") -> TensorSpec:
    return TensorSpec("y", datatype, (-1, 3))


def test_the_best_come_first_with_index_and_label() -> None:
    found = classes(ROWS, spec(), 2, ["cat", "dog"], has_batch=True)
    assert found.tolist() == [[b"3.000000:1:dog", b"0.500000:0:cat"], [b"4.000000:0:cat", b"1.000000:1:dog"]]


def test_an_index_without_a_label_has_none_and_integers_stay_so() -> None:
    found = classes(np.array([1, 9], np.int8), spec("INT8"), 5, [], has_batch=False)
    assert found.tolist() == [b"9:1", b"1:0"]


def test_without_a_batch_all_values_are_one_row() -> None:
    assert classes(ROWS, spec(), 1, [], has_batch=False).tolist() == [b"4.000000:3"]


def test_nan_is_the_worst() -> None:
    found = classes(np.array([np.nan, 1, -np.inf, np.inf], np.float32), spec(), 4, [], has_batch=False)
    assert found.tolist() == [b"inf:3", b"1.000000:1", b"-inf:2", b"nan:0"]


def test_bfloat16_is_compared_as_a_number() -> None:
    bits = (np.array([-1.0, 0.25, 3.5, -2.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    found = classes(bits, spec("BF16"), 2, [], has_batch=False)
    assert found.tolist() == [b"3.500000:2", b"0.250000:1"]


@pytest.mark.parametrize(
    ("array", "datatype"), [(np.array([b"a"], np.object_), "BYTES"), (np.array([True]), "BOOL")]
)
def test_what_is_no_number_has_no_best(array: np.ndarray, datatype: Datatype) -> None:  # type: ignore[type-arg]
    with pytest.raises(RequestError, match="Output 'y' has no numbers"):
        classes(array, spec(datatype), 1, [], has_batch=False)


@given(
    npst.arrays(st.sampled_from(NUMBERS), st.integers(1, 20), elements={"allow_nan": False}), st.integers(1, 40)
)
def test_they_are_the_largest_values_the_first_of_equals_first(array: np.ndarray, count: int) -> None:  # type: ignore[type-arg]
    found = classes(array, spec(DATATYPE_OF_NUMPY[array.dtype.name]), count, [], has_batch=False)
    values = array.tolist()
    best = sorted(range(len(values)), key=lambda index: (-values[index], index))[:count]
    assert [int(item.split(b":")[1]) for item in found] == best


def test_the_classes_of_all_rows_are_bounded() -> None:
    rows = np.zeros((MAX_CLASSES // 4 + 1, 4), np.float32)
    assert classes(rows[1:], spec(), 4, [], has_batch=True).size == MAX_CLASSES
    with pytest.raises(RequestError, match="4 classes for each of 16385 rows, and all together may have 65536"):
        classes(rows, spec(), 9, [], has_batch=True)
