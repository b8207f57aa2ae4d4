"""Large JSON tensors, piece by piece: the same tensor, or the same refusal, as of the whole."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import NUMPY_NAME, Datatype, TensorSpec
from edge_agent.serving import json_pieces, json_tensors


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_pieces, "LARGE_BYTES", 1)
    monkeypatch.setattr(json_pieces, "PIECE_BYTES", 24)


def decode(text: str, datatype: Datatype, shape: tuple[int, ...]) -> Any:
    """Return the tensor, or the refusal without its place."""
    raw = msgspec.json.decode(text, type=msgspec.Raw)  # valid JSON, as it is when it is decoded
    try:
        return json_tensors.decode(raw, TensorSpec("x", datatype, shape), shape)
    except RequestError as error:
        return str(error)


def as_a_whole(text: str, datatype: Datatype, shape: tuple[int, ...]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_pieces, "LARGE_BYTES", 2**30)
        return decode(text, datatype, shape)


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT8", "UINT8", "INT64", "UINT64"])
@pytest.mark.parametrize("shape", [(60,), (3, 20), (60, 1), (1, 60), (2, 5, 6), (1, 1, 60), (2, 3, 2, 5)])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("is_flat", [True, False])
def test_the_tensor_is_the_same(
    datatype: Datatype, shape: tuple[int, ...], indent: int | None, is_flat: bool
) -> None:
    tensor = (np.arange(60) % 100).astype(NUMPY_NAME[datatype]).reshape(shape)
    text = json.dumps(tensor.ravel().tolist() if is_flat else tensor.tolist(), indent=indent)
    result = decode(text, datatype, shape)
    assert (result.dtype, result.shape) == (tensor.dtype, shape)
    assert np.array_equal(result, tensor)


ELEMENTS = st.one_of(
    st.integers(-300, 300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
)
LISTS = st.lists(
    st.one_of(
        st.integers(-128, 127),
        st.lists(st.integers(-128, 127), max_size=5),
        st.lists(ELEMENTS, max_size=4),
        ELEMENTS,
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(
    values=LISTS,
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    datatype=st.sampled_from(["FP32", "INT8", "UINT64"]),
    indent=st.sampled_from([None, 2]),
)
def test_whatever_comes_is_taken_or_refused_as_the_whole_is(
    values: list[Any], shape: tuple[int, ...], datatype: Datatype, indent: int | None
) -> None:
    text = json.dumps(values, indent=indent)
    result, whole = decode(text, datatype, shape), as_a_whole(text, datatype, shape)
    assert type(result) is type(whole)
    if not isinstance(whole, str):
        assert np.array_equal(result, whole)


@pytest.mark.parametrize(
    "text",
    [
        "[[1,2,3],[4]]",
        "[[[1,2],[3,4]]]",
        "[[1],[2,3,4]]",
        "[[1,2],[3,4],[]]",
        "[[1,2],3,4]",
        "[[1,2],[3,true]]",
        '[[1,2],[3,"],["]]',
        "[[1,2],[3,null]]",
        "[[1,2],[3,1e999]]",
        "[[1,2],[3,{}]]",
    ],
)
def test_what_is_nested_otherwise_is_refused(text: str) -> None:
    assert isinstance(decode(text, "FP32", (2, 2)), str)


def test_what_is_wrong_is_told_with_its_place() -> None:
    text = json.dumps([*range(50), "x", *range(50)])
    message = decode(text, "FP32", (101,))
    assert "cannot be FP32: Expected `float`, got `str`, at or after element 50" in message


def test_a_huge_shape_costs_nothing() -> None:
    text = json.dumps([[1, 2], [3, 4]])
    assert isinstance(decode(text, "FP32", (2**31 - 1, 2**31 - 1)), str)
    assert isinstance(decode("[1,2,3]", "FP32", (2**31 - 1,)), str)


def test_a_long_run_without_a_comma_is_decoded_as_a_whole() -> None:
    assert np.array_equal(decode("[1," + " " * 200 + "2]", "FP32", (2,)), np.array([1, 2], np.float32))


def test_it_pauses_between_pieces() -> None:
    pauses: list[int] = []
    raw = msgspec.Raw(json.dumps(list(range(100))).encode())
    json_tensors.decode(raw, TensorSpec("x", "FP32", (100,)), (100,), lambda: pauses.append(1))
    assert len(pauses) > 10
