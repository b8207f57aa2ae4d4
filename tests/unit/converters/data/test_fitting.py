from typing import Any

import numpy as np
import pytest

from converters.data.fitting import samples_of
from converters.data.read import read_columns
from converters.data.samples import Samples
from converters.data.settings import DataSettings
from converters.errors import DataError
from edge_agent.documents.tensors import TensorSpec

IMAGE = TensorSpec("image", "FP32", (-1, 1, 3, 3))
GOOD = np.zeros((4, 1, 3, 3), np.float32)


def fitted(live: Any, *specs: TensorSpec, **settings: Any) -> Samples:
    return samples_of(read_columns(DataSettings(**settings), live), specs)


@pytest.mark.parametrize(
    "live",
    [
        {"x": GOOD, "y": np.arange(4)},
        {"image": GOOD, "y": np.arange(4)[:, None]},
        {"anything": GOOD, "y": np.arange(4)},
        (GOOD, np.arange(4)),
        (GOOD.astype(np.float64), [0, 1, 2, 3]),
        ({"image": GOOD}, np.arange(4, dtype=np.uint8)),
        lambda: (GOOD, np.arange(4)),
    ],
)
def test_one_input_takes_an_array_of_any_name(live: Any) -> None:
    samples = fitted(live, IMAGE)

    assert len(samples) == 4
    assert samples.inputs[0]["image"].shape == (1, 1, 3, 3)
    assert samples.inputs[0]["image"].dtype == np.float32
    assert samples.classes is not None
    assert samples.classes.tolist() == [0, 1, 2, 3]


def test_samples_may_carry_the_batch_of_one_themselves() -> None:
    samples = fitted({"image": np.zeros((4, 1, 1, 3, 3), np.float32)}, IMAGE)

    assert samples.inputs[3]["image"].shape == (1, 1, 3, 3)
    assert samples.targets is None


def test_inputs_without_a_batch_get_one_row_each() -> None:
    state, rate = TensorSpec("state", "FP32", (2, -1, 4)), TensorSpec("sr", "INT64", ())

    samples = fitted(
        {"state": np.zeros((3, 2, 1, 4), np.float32), "sr": np.array([16000, 16000, 8000])}, state, rate
    )

    assert samples.inputs[2]["state"].shape == (2, 1, 4)
    assert samples.inputs[2]["sr"].shape == ()
    assert int(samples.inputs[2]["sr"]) == 8000


def test_input_that_is_called_as_the_labels_are() -> None:
    left, right = TensorSpec("x", "FP32", (-1, 2)), TensorSpec("y", "FP32", (-1, 3))

    samples = fitted({"x": np.zeros((5, 2), np.float32), "y": np.ones((5, 3), np.float32)}, left, right)

    assert samples.inputs[0]["y"].tolist() == [[1, 1, 1]]
    assert samples.targets is None


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"image": GOOD[:, 0]}, r"should be \[samples, 1, 3, 3\]; the data has \[4, 3, 3\]"),
        ({"image": GOOD.astype(np.uint8)}, "takes float32, the data has uint8"),
        ({"image": GOOD[:0]}, "holds no samples"),
        ({"image": np.float32(1)}, "holds no samples"),
        ({"image": np.where(GOOD == 0, np.nan, GOOD).astype(np.float32)}, "NaN or infinite"),
        ({"image": GOOD, "y": np.arange(3)}, "different numbers of samples: 'image' 4, 'y' 3"),
        ({"image": GOOD, "y": np.eye(4, dtype=np.int64)}, "one class number"),
        ({"image": GOOD, "y": np.full(4, np.nan)}, "labels 'y' hold NaN"),
        ({"image": GOOD, "other": GOOD}, "array 'other', which is no input"),
        ({"left": GOOD, "right": GOOD}, "no array for input 'image'"),
        ({"image": np.array(["a", "b"], object)}, "takes float32, the data has object"),
        ({}, "no array for input 'image': the model takes 'image', it has nothing"),
        ({"y": np.arange(4)}, "no array for input 'image'"),
    ],
)
def test_data_that_does_not_fit(arrays: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(DataError, match=said):
        fitted(arrays, IMAGE)


def test_integers_are_narrowed_only_where_they_fit() -> None:
    spec = TensorSpec("tokens", "INT32", (-1, 2))

    samples = fitted({"tokens": np.array([[1, 2], [3, 4]])}, spec)
    assert samples.inputs[0]["tokens"].dtype == np.int32

    with pytest.raises(DataError, match="which int32 cannot hold"):
        fitted({"tokens": np.array([[1, 2**40]])}, spec)


def test_text_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="takes text"):
        fitted(np.array(["a", "b"]), TensorSpec("text", "BYTES", (-1,)))


def test_labels_may_be_values() -> None:
    targets = fitted((GOOD, np.arange(8, dtype=np.float32).reshape(4, 2) / 2), IMAGE).targets

    assert targets is not None
    assert targets.dtype == np.float64
    assert targets.shape == (4, 2)
