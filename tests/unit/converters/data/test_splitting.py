from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.data.columns import Columns, divide
from converters.data.read import read_columns
from converters.data.samples import Samples
from converters.data.settings import DataSettings
from converters.data.splitting import MIN_PER_SPLIT, key_of, split, stratified
from converters.errors import DataError

SETTINGS = DataSettings()


def samples(contents: list[int], classes: list[int] | None = None) -> Samples:
    inputs = tuple({"x": np.array([content])} for content in contents)
    return Samples(inputs, None if classes is None else np.array(classes, np.int64))


def numbered(count: int) -> Samples:
    return samples(list(range(count)), list(range(count)))


def values(part: Samples) -> list[int]:
    return [int(sample["x"][0]) for sample in part.inputs]


CONTENTS = st.lists(st.integers(0, 60), min_size=1, max_size=200)


@settings(max_examples=50, deadline=None)
@given(st.integers(2 * MIN_PER_SPLIT, 3000))
def test_no_sample_calibrates_and_evaluates(count: int) -> None:
    parts = split(numbered(count), SETTINGS, calibrating=True)

    assert not set(values(parts.calibration)) & set(values(parts.evaluation))
    assert MIN_PER_SPLIT <= len(parts.calibration) <= SETTINGS.calibration_samples
    assert MIN_PER_SPLIT <= len(parts.evaluation) <= SETTINGS.evaluation_samples
    assert parts.evaluation.targets is not None
    assert parts.evaluation.targets.tolist() == values(parts.evaluation)


@settings(max_examples=100, deadline=None)
@given(CONTENTS, st.booleans(), st.integers(8, 40), st.integers(8, 40))
def test_sample_that_occurs_twice_is_on_one_side(
    contents: list[int], labelled: bool, calibration: int, evaluation: int
) -> None:
    limits = DataSettings(calibration_samples=calibration, evaluation_samples=evaluation)
    drawn = samples(contents, [content % 3 for content in contents] if labelled else None)
    if len(set(contents)) < 2 * MIN_PER_SPLIT:
        with pytest.raises(DataError, match="int8 needs at least 16"):
            split(drawn, limits, calibrating=True)
        return

    parts = split(drawn, limits, calibrating=True)

    assert not set(values(parts.calibration)) & set(values(parts.evaluation))
    assert len(set(values(parts.calibration))) == len(parts.calibration)
    assert MIN_PER_SPLIT <= len(parts.calibration) <= calibration
    assert MIN_PER_SPLIT <= len(parts.evaluation) <= evaluation


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_each_class_keeps_its_share_on_both_sides(sizes: list[int]) -> None:
    classes = [number for number, size in enumerate(sizes) for _ in range(size)]
    if len(classes) < 2 * MIN_PER_SPLIT:
        return

    parts = split(samples(list(range(len(classes))), classes), SETTINGS, calibrating=True)

    assert parts.calibration.targets is not None
    for number, size in enumerate(sizes):
        calibrating = int(np.sum(parts.calibration.targets == number))
        assert abs(calibrating - size / 2) <= len(sizes)
        if size > 1:
            assert calibrating < size


def test_class_with_one_sample_evaluates() -> None:
    parts = split(samples(list(range(33)), [0] * 32 + [1]), SETTINGS, calibrating=True)

    assert parts.evaluation.targets is not None
    assert 1 in parts.evaluation.targets


def test_all_samples_evaluate_when_none_is_needed_to_calibrate() -> None:
    parts = split(samples([0, 1, 2, 2]), SETTINGS, calibrating=False)

    assert len(parts.calibration) == 0
    assert sorted(values(parts.evaluation)) == [0, 1, 2, 2]


def test_too_few_samples_to_split() -> None:
    with pytest.raises(DataError, match="holds 15 samples; int8 needs at least 16"):
        split(numbered(15), SETTINGS, calibrating=True)
    with pytest.raises(DataError, match="holds 40 samples, of which only 2 differ"):
        split(samples([0, 1] * 20), SETTINGS, calibrating=True)


@settings(max_examples=60, deadline=None)
@given(CONTENTS, CONTENTS)
def test_separate_evaluation_data_is_kept_and_never_calibrates(given_: list[int], own: list[int]) -> None:
    left = set(given_) - set(own)
    if len(left) < MIN_PER_SPLIT:
        with pytest.raises(DataError, match="that are not in the evaluation data too"):
            split(samples(given_), SETTINGS, calibrating=True, evaluation=samples(own))
        return

    parts = split(samples(given_), SETTINGS, calibrating=True, evaluation=samples(own))

    assert set(values(parts.calibration)) == left
    assert sorted(values(parts.evaluation)) == sorted(own)


def test_same_split_each_time() -> None:
    first, second = (split(numbered(100), SETTINGS, calibrating=True) for _ in range(2))

    assert values(first.calibration) == values(second.calibration)
    assert values(first.evaluation) == values(second.evaluation)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=120), st.integers(1, 120))
def test_every_beginning_of_an_order_is_stratified(drawn: list[int], length: int) -> None:
    classes = np.array(drawn, np.int64)

    order = stratified(classes, len(classes))

    assert sorted(order.tolist()) == list(range(len(classes)))
    beginning = classes[order[:length]]
    if length >= len(set(drawn)):
        assert set(beginning.tolist()) == set(drawn)
    for number in set(drawn):
        share = min(length, len(drawn)) * drawn.count(number) / len(drawn)
        assert abs(np.sum(beginning == number) - share) <= len(set(drawn))


class TestDivide:
    def test_training_sees_nothing_of_what_evaluates(self) -> None:
        contents = np.arange(60, dtype=np.float32).reshape(30, 2).repeat(2, axis=0)
        parts = divide(read_columns(SETTINGS, (contents, np.arange(60) // 2 % 3)))

        training, evaluation = (part.arrays["x"][:, 0].tolist() for part in (parts.training, parts.evaluation))
        assert not set(training) & set(evaluation)
        assert len(training) == 15
        assert len(evaluation) == 30
        assert parts.training.targets is not None
        assert (parts.training.targets == np.array(training) // 2 % 3).all()

    def test_separate_evaluation_data(self) -> None:
        columns = read_columns(SETTINGS, np.arange(10, dtype=np.float32))
        others = read_columns(SETTINGS, np.arange(4, dtype=np.float32))

        parts = divide(columns, others)

        assert sorted(parts.training.arrays["x"].tolist()) == [4, 5, 6, 7, 8, 9]
        assert parts.evaluation is others
        with pytest.raises(DataError, match="All samples are in the evaluation data"):
            divide(others, columns)


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
@pytest.mark.parametrize("dtype", [object, "U"])
def test_equal_texts_are_on_one_side(shape: tuple[int, ...], dtype: Any) -> None:
    # Made one by one, so that equal ones are different objects.
    texts = np.array(["".join(["w", str(index % 20)]) for index in range(40)], dtype).reshape(shape)

    division = divide(Columns("arrays", "", SETTINGS, {"text": texts}))

    sides = [set(part.arrays["text"].ravel()) for part in (division.training, division.evaluation)]
    assert not sides[0] & sides[1]
    assert len(division.training) == len(sides[0]) == 10
    assert len(division.evaluation) == 20


def test_text_has_one_key_however_long_others_are() -> None:
    assert key_of({"x": np.array(["ab"], "<U2")}) == key_of({"x": np.array(["ab"], "<U9")})
    assert key_of({"x": np.array(["ab"], object)}) != key_of({"x": np.array(["ac"], object)})
