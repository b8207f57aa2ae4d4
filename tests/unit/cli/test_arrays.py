import io
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cli.arrays import as_json, best, fitted, output_lines
from edge_agent.cli.inputs import read_inputs
from edge_agent.documents.errors import NotFoundError, RequestError
from edge_agent.documents.tensors import NUMPY_NAME, Datatype, TensorSpec
from edge_agent.engines.blank import zeros

X = TensorSpec("x", "FP32", (-1, 3))
IDS = TensorSpec("ids", "INT8", (2,))
TEXT = TensorSpec("text", "BYTES", (-1,))


@pytest.mark.parametrize("datatype", get_args(Datatype))
def test_zeros_have_the_datatype_and_a_shape_that_fits(datatype: Datatype) -> None:
    spec = TensorSpec("x", datatype, (-1, 2))
    array = zeros([spec])["x"]
    assert array.dtype == NUMPY_NAME[datatype]
    assert spec.accepts(array.shape)


@pytest.mark.parametrize(
    "given_json",
    [
        [[1, 2, 3]],
        [1, 2, 3],
        {"x": [[1.0, 2.0, 3.0]]},
        {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]},
    ],
)
def test_json_of_every_form(tmp_path: Path, given_json: Any) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps(given_json))
    array = read_inputs(path, [X])["x"]
    assert array.dtype == np.float32
    assert array.tolist() == [[1, 2, 3]]


def test_numpy_files_are_told_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    assert read_inputs(tmp_path / "a.npy", [X])["x"].dtype == np.float32
    np.savez(tmp_path / "b.npz", x=np.ones((1, 3)), ids=np.array([1, 2]))
    both = read_inputs(tmp_path / "b.npz", [X, IDS])
    assert (both["x"].shape, both["ids"].dtype) == ((1, 3), np.int8)
    content = io.BytesIO((tmp_path / "a.npy").read_bytes())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(content))
    assert read_inputs(Path("-"), [X])["x"].shape == (2, 3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "holds neither .npy, .npz nor JSON"),
        (b"PK\x03\x04broken", "holds neither .npy, .npz nor JSON"),
        (b"\x93NUMPY\x01\x00", "holds neither .npy, .npz nor JSON"),
        (b"[[1, 2], [3]]", "are no FP32 tensor"),
        (b'"abc"', "are no FP32 tensor"),
        (b"[[1, 2]]", r"takes the shape \[-1, 3\] \(-1 is free\), not \[1, 2\]"),
        (b'{"y": [1]}', "The model has no input 'y'; it has x"),
        (b'{"inputs": [{"name": "x"}]}', "no name, shape or fitting data"),
        (b'{"inputs": [{"name": "x", "shape": [9], "data": [1]}]}', "no name, shape or fitting data"),
    ],
)
def test_input_that_does_not_fit_is_told_in_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "in"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=says):
        read_inputs(path, [X])


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object))
    with pytest.raises(RequestError, match="holds neither"):
        read_inputs(tmp_path / "p.npy", [X])


def test_a_list_is_no_input_of_a_model_with_several(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_text("[1]")
    with pytest.raises(RequestError, match=r"several inputs \(x, ids\)"):
        read_inputs(path, [X, IDS])
    with pytest.raises(NotFoundError, match="There is no file"):
        read_inputs(tmp_path / "absent", [X])


@pytest.mark.parametrize("value", [[1.5, 2], [300, 1], [-129, 0], ["a", "b"], [float("nan"), 0]])
def test_integers_that_would_change_are_refused(value: list[Any]) -> None:
    with pytest.raises(RequestError, match="'ids'"):
        fitted(value, IDS)


def test_floats_may_lose_digits_but_not_become_infinite() -> None:
    assert fitted([[0.1, float("inf"), float("nan")]], X).dtype == np.float32
    with pytest.raises(RequestError, match="cannot hold the given float64 values"):
        fitted([[1e300, 0, 0]], X)


def test_text_becomes_bytes() -> None:
    assert fitted(["ä", "b"], TEXT).tolist() == ["ä".encode(), b"b"]
    assert fitted([], TensorSpec("x", "FP32", (-1,))).shape == (0,)
    with pytest.raises(RequestError, match="takes text"):
        fitted([1], TEXT)


@given(st.lists(st.integers(-128, 127), min_size=2, max_size=2))
def test_integers_that_fit_pass_unchanged(values: list[int]) -> None:
    assert fitted(values, IDS).tolist() == values


def test_the_best_classes_come_first_with_their_labels() -> None:
    (row,) = best(np.array([[0.1, 0.7, 0.2]], np.float32), 2, ("a", "b"))
    assert [(entry.index, entry.label, round(entry.score, 3)) for entry in row] == [
        (1, "b", 0.7),
        (2, None, 0.2),
    ]


def test_outputs_as_json_are_valid_json() -> None:
    for array in (
        np.array([[1.5, np.nan], [np.inf, -0.0]], np.float16),
        np.array([b"a", b"\xff"], object),
        np.array([True]),
        np.array(7, np.int64),
    ):
        json.dumps(as_json("y", array), allow_nan=False)
    assert as_json("y", np.array([[1, 2]], np.uint8)) == {
        "name": "y", "datatype": "UINT8", "shape": [1, 2], "data": [1, 2],
    }  # fmt: skip


def test_long_outputs_are_shortened() -> None:
    shown = list(output_lines("y", np.arange(10_000, dtype=np.float32).reshape(1, -1)))
    assert shown[0] == "y  FP32 [1, 10000]"
    assert len(shown) == 2
    assert "..." in shown[1]
