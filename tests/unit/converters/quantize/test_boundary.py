import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converters.quantize import boundary
from edge_agent.documents.tensors import TensorSpec
from support import convertible

KINDS = {"INT8": np.int8, "UINT8": np.uint8}


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, (1, 7), elements=st.floats(-100, 100, width=32)),
    st.sampled_from(["INT8", "UINT8"]),
    st.floats(0.01, 2),
    st.integers(0, 100),
)
def test_values_within_the_range_come_back_within_half_a_step(array, datatype, scale: float, zero: int) -> None:
    inputs = (TensorSpec("x", datatype, (1, 7)),)
    parameters = {"x": (scale, zero)}

    integers = boundary.to_integers({"x": array}, inputs, parameters)
    back = boundary.to_floats(integers, parameters)["x"]

    ends = np.iinfo(KINDS[datatype])
    low, high = (np.float32(scale) * (end - zero) for end in (ends.min, ends.max))
    assert integers["x"].dtype == KINDS[datatype]
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, np.clip(array, low, high), atol=0.5 * scale + 1e-4)


def test_what_is_no_quantized_float_passes_through() -> None:
    sample = {"ids": np.int32([1]), "free": np.float32([2])}
    inputs = (TensorSpec("ids", "INT8", (1,)), TensorSpec("free", "FP32", (1,)))

    assert boundary.to_integers(sample, inputs, {"ids": (1.0, 0)}) == sample
    assert boundary.to_floats(sample, {}) == sample


def test_parameters_of_a_model_that_was_quantized_elsewhere() -> None:
    assert boundary.io_parameters(convertible.okay_nabu()) == {
        "serving_default_input_audio:0": (pytest.approx(0.10196, abs=1e-5), -128),
        "StatefulPartitionedCall:0": (1 / 256, 0),
    }
    assert boundary.io_parameters(convertible.magika()) == {}
