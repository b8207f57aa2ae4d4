from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from converters.data.generate import generate
from converters.errors import DataError
from edge_agent.documents.tensors import NUMPY_NAME, Datatype, TensorSpec

IMAGE = TensorSpec("image", "FP32", (-1, 1, 3, 3))
NUMBERS = [one for one in get_args(Datatype) if one != "BYTES"]


def numbers(datatype: Datatype, array: NDArray[Any]) -> NDArray[np.float64]:
    if datatype == "BF16":
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


@settings(max_examples=60, deadline=None)
@example("BF16", [2, 5], -1, 0)
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

    made = generate([spec], {"x": bounds}, {}, 5)

    for sample in made.inputs:
        assert sample["x"].dtype == np.dtype(NUMPY_NAME[datatype])
        assert spec.accepts(sample["x"].shape)
        values = numbers(datatype, sample["x"])
        assert (values >= bounds[0]).all()
        assert (values <= bounds[1]).all()


def test_generated_samples_are_the_same_each_time() -> None:
    first, second = (generate([IMAGE], {}, {}, 6) for _ in range(2))

    for one, other in zip(first.inputs, second.inputs, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_integers_reach_both_ends_of_their_range() -> None:
    made = generate([TensorSpec("x", "INT32", (1, 4096))], {"x": (0, 256)}, {}, 3)

    noise = made.inputs[0]["x"]
    assert (noise.min(), noise.max()) == (0, 256)


def test_shape_says_what_free_dimensions_are() -> None:
    spec = TensorSpec("x", "FP32", (-1, 3, -1, -1))

    assert generate([spec], {}, {}, 1).inputs[0]["x"].shape == (1, 3, 32, 32)
    assert generate([spec], {}, {"x": (1, 3, 48, 320)}, 1).inputs[0]["x"].shape == (1, 3, 48, 320)
    with pytest.raises(DataError, match=r"\[any, 3, any, any\], which \[1, 4, 8, 8\] does not fit"):
        generate([spec], {}, {"x": (1, 4, 8, 8)}, 1)


def test_names_that_are_no_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="A range names the input 'img', but the model has: image"):
        generate([IMAGE], {"img": (0, 1)}, {}, 1)
    with pytest.raises(DataError, match="A shape names the input 'img'"):
        generate([IMAGE], {}, {"img": (1, 1, 3, 3)}, 1)


def test_text_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="takes text"):
        generate([TensorSpec("x", "BYTES", (1,))], {}, {}, 1)


@pytest.mark.parametrize(
    ("datatype", "bounds"),
    [
        ("UINT8", (0, 1000)),
        ("UINT8", (-1, 5)),
        ("INT64", (0, 2.0**63)),
        ("FP32", (0, float("inf"))),
        ("FP32", (float("nan"), 1)),
        ("FP16", (0, 1e5)),
        ("FP64", (-1.7e308, 1.7e308)),
        ("BOOL", (0, 2)),
        ("INT32", (5, 2)),
    ],
)
def test_ranges_that_the_datatype_does_not_hold_are_refused(
    datatype: Datatype, bounds: tuple[float, float]
) -> None:
    with pytest.raises(DataError, match=rf"does not fit the input 'x'; give two numbers of {datatype} from"):
        generate([TensorSpec("x", datatype, (1, 2))], {"x": bounds}, {}, 3)
