import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.data.targets import Labels, notes, read_labels, renumbered
from converters.errors import DataError


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=30))
def test_names_keep_what_they_say(texts: list[str]) -> None:
    labels = read_labels(np.array(texts, object), "y")

    assert labels.class_names == tuple(sorted(set(texts)))
    assert labels.targets is not None
    assert [labels.class_names[number] for number in labels.targets] == texts


@pytest.mark.parametrize("array", [np.array([[1], [0]]), np.array([True, False]), np.array([1, 0], np.uint8)])
def test_numbers(array: np.ndarray) -> None:
    targets = read_labels(array, "y").targets

    assert targets is not None
    assert targets.dtype == np.int64
    assert targets.tolist() == [1, 0]


def test_renumbering_needs_the_same_names() -> None:
    labels = Labels(np.array([0, 1, 1]), ("b", "c"))

    again = renumbered(labels, ("a", "b", "c"))

    assert again.targets is not None
    assert again.targets.tolist() == [1, 2, 2]
    assert renumbered(Labels(np.array([3])), ("a",)).class_names == ()
    with pytest.raises(DataError, match="class 'c', which the other data lacks"):
        renumbered(labels, ("a", "b"))


def test_notes_name_thin_and_absent_classes() -> None:
    assert notes(np.array([0, 0, 1, 1])) == []
    assert notes(np.array([0, 0, 2])) == [
        "There is a single sample of class 2; give more of each class.",
        "There is no sample of class 1, so nothing is known of it.",
    ]
    assert "classes 'b', 'c'" in notes(np.array([0, 0]), ("a", "b", "c"))[0]
    assert "and 4 more" in notes(np.array([0, 0, 10, 10]))[0]
