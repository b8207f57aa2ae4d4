import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cli.output import bar_line
from edge_agent.cli.saving import OutputFiles, targets
from edge_agent.cli.slicing import FIRST_ROWS, MAX_WHOLE_BYTES, SLICE_BYTES, Slicing, plan
from edge_agent.documents.errors import OperatorError, RequestError
from edge_agent.documents.tensors import TensorSpec

X = TensorSpec("x", "FP32", (-1, 256))
ROWS = TensorSpec("y", "FP32", (-1, 2))
ONE = TensorSpec("x", "FP32", (1, 256))


def test_a_large_file_goes_in_slices_of_a_mebibyte() -> None:
    assert plan((100_000, 256), 4, X, [ROWS]) == Slicing(100_000, 1024, 1024, is_fixed=False)
    assert plan((1024, 256), 4, X, [ROWS]) is None
    # What a row weighs on its way back counts as well.
    found = plan((100_000, 256), 4, X, [TensorSpec("y", "FP32", (-1, 2560))])
    assert found is not None
    assert found.rows == 102


def test_rows_as_the_caller_wants_them() -> None:
    assert plan((10, 256), 4, X, [ROWS], wanted_rows=3) == Slicing(10, 3, 3, is_fixed=True)
    with pytest.raises(RequestError, match="one row at a time"):
        plan((10, 256), 4, ONE, [ROWS], wanted_rows=3)
    with pytest.raises(RequestError, match="leave --rows out"):
        plan((10, 5), 4, X, [ROWS], wanted_rows=3)


def test_slices_are_a_multiple_of_what_the_model_takes_at_once() -> None:
    found = plan((100_000, 256), 4, X, [ROWS], max_batch=100)
    assert found is not None
    assert found.rows == 1000
    assert plan((500, 256), 4, X, [ROWS], max_batch=8) is None


def test_a_model_of_one_row_gets_row_by_row() -> None:
    assert plan((7, 256), 4, ONE, [TensorSpec("y", "FP32", (1, 2))]) == Slicing(7, 1, 1, is_fixed=True)
    assert plan((1, 256), 4, ONE, [ROWS]) is None
    assert plan((7, 255), 4, ONE, [ROWS]) is None


def test_where_an_output_has_no_row_for_each_it_is_one_request_or_refused() -> None:
    mean = TensorSpec("mean", "FP32", (2,))
    assert plan((100_000, 256), 4, X, [ROWS, mean]) is None
    with pytest.raises(RequestError, match="output mean has not a row for each"):
        plan((MAX_WHOLE_BYTES // 1024 + 1, 256), 4, X, [ROWS, mean])
    with pytest.raises(RequestError, match="output mean"):
        plan((100, 256), 4, X, [mean], wanted_rows=10)


def test_unknown_outputs_are_tried_with_few_rows_first() -> None:
    found = plan((100_000, 256), 4, X, [TensorSpec("y", "FP32", (-1, -1))])
    assert found is not None
    assert found.first == FIRST_ROWS
    assert found.after(FIRST_ROWS, 10) == 1024
    assert found.after(FIRST_ROWS, FIRST_ROWS * SLICE_BYTES) == 1
    assert Slicing(10, 3, 3, is_fixed=True).after(3, 10**9) == 3


@given(
    st.tuples(st.integers(1, 10**7), st.integers(1, 10**4)),
    st.integers(1, 16),
    st.integers(1, 10**4) | st.none(),
)
def test_a_plan_is_never_larger_than_it_may_be(
    shape: tuple[int, int], item_bytes: int, max_batch: int | None
) -> None:
    spec = TensorSpec("x", "FP32", (-1, -1))
    found = plan(shape, item_bytes, spec, [ROWS], max_batch=max_batch)
    row_bytes = shape[1] * item_bytes
    if found is None:
        assert shape[0] * row_bytes <= max(SLICE_BYTES, row_bytes)
    else:
        assert 1 <= found.rows < shape[0]
        assert found.rows * row_bytes <= max(SLICE_BYTES, row_bytes)


def test_outputs_are_written_in_rows_and_named_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    path.write_bytes(b"old")
    parts = [np.arange(6, dtype=np.float32).reshape(2, 3) + n for n in range(3)]
    with OutputFiles(path) as files:
        files.create({"y": parts[0]}, 6)
        for part in parts:
            files.append({"y": part})
        assert path.read_bytes() == b"old"
        files.finish()
    assert files.paths == {"y": path}
    assert np.array_equal(np.load(path), np.concatenate(parts))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
    assert list(tmp_path.iterdir()) == [path]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [KeyboardInterrupt, RequestError("no")])
def test_what_is_not_complete_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(BaseException, match=r".*"), OutputFiles(tmp_path / "out.npy") as files:
        files.create({"y": np.zeros((1, 3))}, 10)
        files.append({"y": np.zeros((1, 3))})
        raise error
    assert list(tmp_path.iterdir()) == []


def test_several_outputs_get_files_of_safe_and_different_names(tmp_path: Path) -> None:
    arrays = {name: np.full(2, n) for n, name in enumerate(("a/b:0", "a.b_0", "a_b_0", "../x", "..", "text"))}
    arrays["text"] = np.array([b"abc", b""], object)
    with OutputFiles(tmp_path / "new") as files:
        files.create(arrays)
        files.append(arrays)
        files.finish()
    assert len(set(files.paths.values())) == len(arrays)
    assert all(path.parent == tmp_path / "new" for path in files.paths.values())
    assert np.load(files.paths["a/b:0"]).tolist() == [0, 0]
    assert np.load(files.paths["text"]).tolist() == [b"abc", b""]
    with pytest.raises(RequestError, match="2 outputs"):
        targets(tmp_path / "x.npy", ["a", "b"])


def test_text_is_not_saved_in_slices(tmp_path: Path) -> None:
    with OutputFiles(tmp_path) as files, pytest.raises(RequestError, match="is text"):
        files.create({"label": np.array([b"a"], object)}, 10)


def test_no_room_and_no_right_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with OutputFiles(tmp_path / "file/out") as files, pytest.raises(OperatorError, match="Cannot write"):
        files.create({"y": np.zeros(3)})

    def no_room(descriptor: int, offset: int, size_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with OutputFiles(tmp_path / "y.npy") as files, pytest.raises(OperatorError, match="no space left"):
        files.create({"y": np.zeros(3)}, 100)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@given(st.floats(0, 1), st.integers(1, 2**40), st.floats(0, 1e6), st.integers(2, 200))
def test_a_bar_fits_its_terminal(share: float, total_bytes: int, elapsed_s: float, columns: int) -> None:
    assert len(bar_line(share, total_bytes, elapsed_s, columns)) < columns


def test_a_bar_says_how_far_and_how_long() -> None:
    assert bar_line(0.5, 2**31, 10, 100) == (
        "[###############...............]  50%  1.0 GiB of 2.0 GiB  102.4 MiB/s  10 s left"
    )
