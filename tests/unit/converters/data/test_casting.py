"""Arrays as the datatype that a model takes."""

import ml_dtypes
import numpy as np
import pytest

from converters.data.casting import cast
from converters.errors import DataError
from edge_agent.documents.tensors import TensorSpec

BFLOAT16 = TensorSpec("x", "BF16", (-1,))


def test_floats_become_the_bits_of_the_nearest_bfloat16() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32) * 1e3
    expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(cast(BFLOAT16, values), expected)
    np.testing.assert_array_equal(cast(BFLOAT16, values.astype(np.float64)), expected)


def test_bits_of_bfloat16_stay_as_they_are() -> None:
    bits = np.array([0x3F80, 0xBF80], np.uint16)
    assert cast(BFLOAT16, bits) is bits


def test_other_whole_numbers_are_no_bfloat16() -> None:
    with pytest.raises(DataError, match="takes float32, the data has int64"):
        cast(BFLOAT16, np.array([1, 2], np.int64))
