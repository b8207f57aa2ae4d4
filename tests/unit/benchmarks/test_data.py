"""Readers of the benchmark's data: a pickle that may not run code, .ts files, duplicates, splits, wheels."""

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.converters import data
from benchmarks.converters.data import Part, UnsafePickleError
from benchmarks.converters.fetch import FetchError, take_out

TS = """#A comment: with a colon
@problemName Tiny
@equalLength true
@classLabel true Resting Running
@data
1,2,3:4,5,6:Running
-1,0.5,0:0,0,1e-3:Resting
"""


class Marking:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_array_is_read(protocol: int) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    if protocol == 2:  # bytes go through _codecs.encode there, which is not allowed
        with pytest.raises(UnsafePickleError, match="_codecs"):
            data.read_arrays(pickle.dumps(array, protocol))
    elif protocol == 5:  # another function rebuilds it there
        with pytest.raises(UnsafePickleError, match="_frombuffer"):
            data.read_arrays(pickle.dumps(array, protocol))
    else:
        np.testing.assert_array_equal(data.read_arrays(pickle.dumps(array, protocol)), array)


def test_a_pickle_that_runs_code_is_refused_before_it_does(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Marking(mark)))
    assert mark.exists(), "the pickle of this test should do harm when it is read carelessly"
    mark.unlink()
    with pytest.raises(UnsafePickleError, match="only arrays"):
        data.read_arrays(pickle.dumps(Marking(mark)))
    assert not mark.exists()


@pytest.mark.parametrize("value", [{"x": 1}, [1, 2], "text"])
def test_a_pickle_of_something_else_is_refused(value: object) -> None:
    with pytest.raises(UnsafePickleError, match="other than an array"):
        data.read_arrays(pickle.dumps(value, 4))


def test_an_array_of_objects_is_refused() -> None:
    with pytest.raises(UnsafePickleError, match="other than an array"):
        data.read_arrays(pickle.dumps(np.array([1, "a"], object), 4))


def test_ts_files_are_parsed() -> None:
    series, classes = data.parse_ts(TS)
    assert series.dtype == np.float32
    np.testing.assert_allclose(series, [[[1, 2, 3], [4, 5, 6]], [[-1, 0.5, 0], [0, 0, 1e-3]]])
    assert classes.tolist() == [1, 0]


def test_a_ts_file_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="names no classes"):
        data.parse_ts("@classLabel false\n@data\n1,2:3,4\n")


def test_duplicates_are_dropped_by_content_and_the_order_kept() -> None:
    images = np.array([[[3]], [[1]], [[3]], [[2]], [[1]]], np.uint8)
    assert data.first_of_each(images).tolist() == [0, 1, 3]


def test_a_split_shares_nothing_and_follows_the_seed() -> None:
    whole = Part(np.arange(50), np.arange(50))
    parts = data.split(whole, 1, conversion=10, test=15)
    together = np.concatenate([parts.train.x, parts.conversion.x, parts.test.x])
    assert sorted(together.tolist()) == list(range(50))
    assert (len(parts.train), len(parts.conversion), len(parts.test)) == (25, 10, 15)
    again = data.split(whole, 1, conversion=10, test=15)
    np.testing.assert_array_equal(parts.test.x, again.test.x)
    assert parts.test.x.tolist() != data.split(whole, 2, conversion=10, test=15).test.x.tolist()


def test_windows_keep_the_class_of_their_series() -> None:
    series = Part(np.arange(2 * 3 * 100, dtype=np.float32).reshape(2, 3, 100), np.array([5, 7]))
    cut = data.windows(series)
    assert cut.x.shape == (14, 3, data.WINDOW)
    for window, label in zip(cut.x, cut.y, strict=True):
        assert label == (5 if window[0, 0] < 300 else 7)


def test_a_file_with_another_digest_is_not_taken_out_of_a_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "tiny.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/data.bin", b"content")
    cache = tmp_path / "cache"
    take_out(wheel, {"tiny/data.bin": hashlib.sha256(b"content").hexdigest()}, cache)
    assert (cache / "data.bin").read_bytes() == b"content"
    with pytest.raises(FetchError, match="not the file that was expected"):
        take_out(wheel, {"tiny/data.bin": hashlib.sha256(b"other").hexdigest()}, tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").iterdir()) == []
