"""Outputs as their best classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.errors import RequestError
from edge_agent.serving.classification import classes

ROWS = np.array([[0.5, 3.0, -1.0], [4.0, 1.0, 1.0]], np.float32)


def test_the_best_come_first_with_index_and_label() -> None:
    found = classes(ROWS, "y", 2, ["cat", "dog"], has_batch=True)
    assert found.tolist() == [[b"3.000000:1:dog", b"0.500000:0:cat"], [b"4.000000:0:cat", b"1.000000:1:dog"]]


def test_an_index_without_a_label_has_none_and_integers_stay_so() -> None:
    assert classes(np.array([1, 9], np.int8), "y", 5, [], has_batch=False).tolist() == [b"9:1", b"1:0"]


def test_without_a_batch_all_values_are_one_row() -> None:
    assert classes(ROWS, "y", 1, [], has_batch=False).tolist() == [b"4.000000:3"]


@pytest.mark.parametrize("array", [np.array([b"a"], np.object_), np.array([True])])
def test_what_is_no_number_has_no_best(array: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(RequestError, match="Output 'y' has no numbers"):
        classes(array, "y", 1, [], has_batch=False)


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=30), st.integers(1, 40))
def test_they_are_the_largest_values(values: list[int], count: int) -> None:
    found = classes(np.array(values, np.int8), "y", count, [], has_batch=False)
    given_values = [int(item.split(b":")[0]) for item in found]
    assert given_values == sorted(values, reverse=True)[:count]
    assert [values[int(item.split(b":")[1])] for item in found] == given_values
