from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.data import sampling
from converters.data.sampling import Samples
from converters.errors import DataError
from edge_agent.documents.tensors import NUMPY_NAME, Datatype, TensorSpec

IMAGE = TensorSpec("image", "FP32", (-1, 1, 3, 3))
NUMBERS = [one for one in get_args(Datatype) if one != "BYTES"]


def numbered(count: int, *, labelled: bool = False) -> Samples:
    inputs = tuple({"x": np.array([index])} for index in range(count))
    return Samples(inputs, np.arange(count) if labelled else None)


def values(samples: Samples) -> set[int]:
    return {int(sample["x"][0]) for sample in samples.inputs}


@settings(max_examples=50, deadline=None)
@given(st.integers(2 * sampling.MIN_PER_SPLIT, 3000))
def test_no_sample_calibrates_and_evaluates(count: int) -> None:
    parts = sampling.split(numbered(count, labelled=True), calibrating=True)

    assert not values(parts.calibration) & values(parts.evaluation)
    assert sampling.MIN_PER_SPLIT <= len(parts.calibration) <= sampling.MAX_CALIBRATION
    assert sampling.MIN_PER_SPLIT <= len(parts.evaluation) <= sampling.MAX_EVALUATION
    assert parts.evaluation.labels is not None
    labels = zip(parts.evaluation.labels, parts.evaluation.inputs, strict=True)
    assert all(label == sample["x"][0] for label, sample in labels)


def test_all_samples_evaluate_when_none_is_needed_to_calibrate() -> None:
    parts = sampling.split(numbered(3), calibrating=False)

    assert len(parts.calibration) == 0
    assert values(parts.evaluation) == {0, 1, 2}


def test_too_few_samples_to_split() -> None:
    with pytest.raises(DataError, match="holds 15 samples; int8 needs at least 16"):
        sampling.split(numbered(15), calibrating=True)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NUMBERS),
    st.lists(st.sampled_from([-1, 1, 2, 5]), max_size=4),
    st.integers(-100, 50),
    st.integers(0, 50),
)
def test_generated_samples_fit_and_stay_in_range(
    datatype: Datatype, shape: list[int], low: int, span: int
) -> None:
    spec = TensorSpec("x", datatype, tuple(shape))
    bounds = (0.0, 1.0) if datatype == "BOOL" else (float(max(low, 0) if "U" in datatype else low), 0.0)
    bounds = bounds if datatype == "BOOL" else (bounds[0], bounds[0] + span)

    made = sampling.generate([spec], {"x": bounds}, {}, 5)

    for sample in made.inputs:
        assert sample["x"].dtype == np.dtype(NUMPY_NAME[datatype])
        assert spec.accepts(sample["x"].shape)
        assert (sample["x"].astype(np.float64) >= bounds[0]).all()
        assert (sample["x"].astype(np.float64) <= bounds[1]).all()


def test_generated_samples_are_the_same_each_time() -> None:
    first, second = (sampling.generate([IMAGE], {}, {}, 6) for _ in range(2))

    for one, other in zip(first.inputs, second.inputs, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_integers_reach_both_ends_of_their_range() -> None:
    made = sampling.generate([TensorSpec("x", "INT32", (1, 4096))], {"x": (0, 256)}, {}, 3)

    noise = made.inputs[0]["x"]
    assert (noise.min(), noise.max()) == (0, 256)


def test_shape_says_what_free_dimensions_are() -> None:
    spec = TensorSpec("x", "FP32", (-1, 3, -1, -1))

    assert sampling.generate([spec], {}, {}, 1).inputs[0]["x"].shape == (1, 3, 32, 32)
    assert sampling.generate([spec], {}, {"x": (1, 3, 48, 320)}, 1).inputs[0]["x"].shape == (1, 3, 48, 320)
    with pytest.raises(DataError, match=r"\[any, 3, any, any\], which \[1, 4, 8, 8\] does not fit"):
        sampling.generate([spec], {}, {"x": (1, 4, 8, 8)}, 1)


def test_names_that_are_no_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="A range names the input 'img', but the model has: image"):
        sampling.generate([IMAGE], {"img": (0, 1)}, {}, 1)
    with pytest.raises(DataError, match="A shape names the input 'img'"):
        sampling.generate([IMAGE], {}, {"img": (1, 1, 3, 3)}, 1)


def test_text_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="takes text"):
        sampling.generate([TensorSpec("x", "BYTES", (1,))], {}, {}, 1)


def test_one_input_takes_an_array_of_any_name() -> None:
    samples = sampling.from_arrays({"x": np.zeros((4, 1, 3, 3), np.float32), "y": np.arange(4)}, [IMAGE])

    assert len(samples) == 4
    assert samples.inputs[0]["image"].shape == (1, 1, 3, 3)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2, 3]


def test_samples_may_carry_the_batch_of_one_themselves() -> None:
    samples = sampling.from_arrays({"image": np.zeros((4, 1, 1, 3, 3), np.float32)}, [IMAGE])

    assert samples.inputs[3]["image"].shape == (1, 1, 3, 3)


def test_inputs_without_a_batch_get_one_row_each() -> None:
    state, rate = TensorSpec("state", "FP32", (2, -1, 4)), TensorSpec("sr", "INT64", ())

    samples = sampling.from_arrays(
        {"state": np.zeros((3, 2, 1, 4), np.float32), "sr": np.array([16000, 16000, 8000])}, [state, rate]
    )

    assert samples.inputs[2]["state"].shape == (2, 1, 4)
    assert samples.inputs[2]["sr"].shape == ()
    assert int(samples.inputs[2]["sr"]) == 8000


GOOD = np.zeros((4, 1, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"image": GOOD[:, 0]}, r"should be \[samples, 1, 3, 3\]; the data has \[4, 3, 3\]"),
        ({"image": GOOD.astype(np.uint8)}, "takes float32, the data has uint8"),
        ({"image": GOOD[:0]}, "holds no samples"),
        ({"image": np.float32(1)}, "holds no samples"),
        ({"image": np.where(GOOD == 0, np.nan, GOOD).astype(np.float32)}, "NaN or infinite"),
        ({"image": GOOD, "y": np.arange(3)}, "different numbers of samples: 'image' 4, 'y' 3"),
        ({"image": GOOD, "y": np.arange(4) / 2}, "one class number"),
        ({"image": GOOD, "other": GOOD}, "array 'other', which is no input"),
        ({"left": GOOD, "right": GOOD}, "no array for input 'image'"),
        ({}, "no array for input 'image': the model takes 'image', it has nothing"),
        ({"y": np.arange(4)}, "no array for input 'image'"),
    ],
)
def test_data_that_does_not_fit(arrays: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(DataError, match=said):
        sampling.from_arrays(arrays, [IMAGE])


def test_integers_are_narrowed_only_where_they_fit() -> None:
    spec = TensorSpec("tokens", "INT32", (-1, 2))

    samples = sampling.from_arrays({"tokens": np.array([[1, 2], [3, 4]])}, [spec])
    assert samples.inputs[0]["tokens"].dtype == np.int32

    with pytest.raises(DataError, match="which int32 cannot hold"):
        sampling.from_arrays({"tokens": np.array([[1, 2**40]])}, [spec])


def test_files_that_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        sampling.read_data(tmp_path / "none.npz", [IMAGE])

    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match=r"is not an \.npz file"):
        sampling.read_data(tmp_path / "text.npz", [IMAGE])

    np.savez(tmp_path / "objects.npz", image=np.array([object()]))
    with pytest.raises(DataError, match="without object arrays"):
        sampling.read_data(tmp_path / "objects.npz", [IMAGE])

    np.save(tmp_path / "one.npy", GOOD)
    with pytest.raises(DataError, match=r"is not an \.npz file"):
        sampling.read_data(tmp_path / "one.npy", [IMAGE])
