import numpy as np
import pytest

from edge_agent.documents.errors import GoldenError
from edge_agent.documents.tensors import TensorSpec
from edge_agent.engines.blank import check_outputs, zeros

Y = (TensorSpec("y", "FP32", (-1, 2)),)


def test_zeros_in_every_shape() -> None:
    made = zeros(
        (TensorSpec("a", "INT8", (-1, 3)), TensorSpec("b", "BYTES", (2,)), TensorSpec("c", "FP16", ()))
    )
    assert {name: (tensor.shape, tensor.dtype.name) for name, tensor in made.items()} == {
        "a": ((1, 3), "int8"),
        "b": ((2,), "object"),
        "c": ((), "float16"),
    }


def test_what_comes_out_has_the_right_shape_and_is_finite() -> None:
    check_outputs({"y": np.ones((4, 2), np.float32)}, Y)
    for got, says in (
        ({}, "no output 'y'"),
        ({"y": np.ones((4, 3))}, "shape"),
        ({"y": np.ones(2)}, "shape"),
        ({"y": np.array([[1.0, np.nan]])}, "not finite"),
        ({"y": np.array([[1.0, np.inf]], np.float16)}, "not finite"),
    ):
        with pytest.raises(GoldenError, match=says):
            check_outputs(got, Y)
