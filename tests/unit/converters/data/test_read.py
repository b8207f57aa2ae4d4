from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converters.data.columns import Columns, example, training_arrays
from converters.data.read import read_columns, read_evaluation
from converters.data.settings import DataSettings
from converters.errors import DataError
from edge_agent.documents.errors import RequestError

GOOD = np.arange(12, dtype=np.float32).reshape(6, 2)


def read(path: Path, limit: int | None = None, **settings: Any) -> Columns:
    return read_columns(DataSettings(path=str(path), **settings), None, limit)


def test_npz_and_npy(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=GOOD, y=np.arange(6) % 2)
    np.save(tmp_path / "data.npy", GOOD)

    archive, single = read(tmp_path / "data.npz"), read(tmp_path / "data.npy")

    assert list(archive.arrays) == ["image"]
    assert archive.classes is not None
    np.testing.assert_array_equal(single.arrays["x"], GOOD)
    assert single.targets is None
    assert len(single) == 6


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    import hashlib

    np.save(tmp_path / "data.npy", GOOD)

    assert (
        read(tmp_path / "data.npy").sha256 == hashlib.sha256((tmp_path / "data.npy").read_bytes()).hexdigest()
    )


def test_digest_of_arrays_tells_them_apart() -> None:
    lives: list[Any] = [
        GOOD,
        GOOD + 1,
        GOOD.astype(np.float64),
        GOOD.reshape(6, 2, 1),
        {"a": GOOD},
        (GOOD, np.arange(6)),
        (GOOD, list("abcdef")),
        (GOOD, list("abcdeg")),
    ]

    assert len({read_columns(DataSettings(), live).sha256 for live in lives}) == len(lives)
    assert read_columns(DataSettings(), GOOD).sha256 == read_columns(DataSettings(), lambda: GOOD.copy()).sha256


def test_files_that_are_no_data(tmp_path: Path) -> None:
    for name, content, said in (
        ("none.npz", None, "does not exist; give an .npz"),
        ("text.npz", b"hello", r"is not an \.npz file"),
        ("text.npy", b"hello", r"is not an \.npy file"),
        ("data.xlsx", b"hello", "of a kind that is not read"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=said):
            read(tmp_path / name)

    np.savez(tmp_path / "objects.npz", image=np.array([object()]))
    with pytest.raises(DataError, match="without object arrays"):
        read(tmp_path / "objects.npz")
    np.savez(tmp_path / "good.npz", image=GOOD)
    content = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"is not an \.npz file"):
        read(tmp_path / "cut.npz")
    (tmp_path / "good.npz").rename(tmp_path / "good.npy")
    with pytest.raises(DataError, match="holds several arrays"):
        read(tmp_path / "good.npy")


def test_labels_by_another_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=GOOD, kind=np.arange(6))

    assert list(read(tmp_path / "data.npz", labels="kind").arrays) == ["image"]
    with pytest.raises(DataError, match="no labels 'class', it has 'image', 'kind'"):
        read(tmp_path / "data.npz", labels="class")


def test_limit_keeps_the_shares(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=np.arange(100.0), y=np.arange(100) % 10 == 0)

    first, second = (read(tmp_path / "data.npz", 20) for _ in range(2))

    assert first.classes is not None
    assert np.bincount(first.classes).tolist() == [18, 2]
    np.testing.assert_array_equal(first.arrays["image"], second.arrays["image"])
    np.testing.assert_array_equal(first.classes, first.arrays["image"] % 10 == 0)


def test_function_is_imported_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "my_samples.py").write_text(
        "import numpy as np\n"
        "def pair():\n    return np.zeros((4, 2), np.float32), np.arange(4)\n"
        "def fails():\n    raise ValueError('no\\ndisk')\n"
        "number = 3\n"
    )
    (tmp_path / "broken_samples.py").write_text("import nothing_of_this_name\n")
    found = read_columns(DataSettings(path="my_samples:pair", import_from=str(tmp_path)))

    assert found.arrays["x"].shape == (4, 2)
    assert found.classes is not None
    for reference, error, said in (
        ("my_samples:fails", DataError, "fails that should return the data failed: ValueError: no disk"),
        ("my_samples:number", RequestError, "has no function 'number'"),
        ("my_samples:other", RequestError, "has no function 'other'"),
        ("no_such_samples:f", RequestError, "Cannot import no_such_samples"),
        ("broken_samples:f", RequestError, "No module named 'nothing_of_this_name'"),
    ):
        with pytest.raises(error, match=said) as caught:
            read_columns(DataSettings(path=reference, import_from=str(tmp_path)))
        assert "\n" not in str(caught.value)


class Frame:
    """As pandas' frames: no sequence of rows, but an array on request."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return GOOD


def test_whatever_numpy_makes_an_array_of() -> None:
    for live in (Frame(), GOOD.tolist(), {"x": Frame()}, (Frame(), None), (GOOD.tolist(), Frame())):
        np.testing.assert_array_equal(read_columns(DataSettings(), live).arrays["x"], GOOD)


@pytest.mark.parametrize(
    ("live", "said"),
    [
        ((GOOD, GOOD, GOOD), "a tuple of 3"),
        ([[1, 2], [3]], "cannot be made an array|not an array of numbers"),
        (object(), "not an array of numbers"),
        ({"a": [{}, {}]}, "not an array of numbers"),
        ((GOOD, ["a", 1, 2, 3, 4, None]), "not an array of numbers"),
        ((GOOD, ["a", "", "b", "c", "d", "e"]), "have an empty name"),
        ((GOOD, np.arange(5)), "different numbers of samples: 'x' 6, 'y' 5"),
        ((GOOD, np.zeros((6, 2), np.complex64)), "one class number"),
    ],
)
def test_live_data_that_is_none(live: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_columns(DataSettings(), live)


class TestEvaluation:
    def folder(self, path: Path, *names: str) -> str:
        for name in names:
            (path / name).mkdir(parents=True)
            Image.new("L", (2, 2)).save(path / name / "0.png")
        return str(path)

    def test_none_unless_given(self) -> None:
        columns = read_columns(DataSettings(), GOOD)

        assert read_evaluation(DataSettings(), columns) is None
        found = read_evaluation(DataSettings(), columns, live=(GOOD, np.arange(6)))
        assert found is not None
        assert len(found) == 6

    def test_classes_are_numbered_alike(self, tmp_path: Path) -> None:
        settings = DataSettings(
            path=self.folder(tmp_path / "a", "bird", "cat", "dog"),
            evaluation=self.folder(tmp_path / "b", "cat", "dog"),
        )
        columns = read_columns(settings)

        found = read_evaluation(settings, columns)

        assert found is not None
        assert found.class_names == ("bird", "cat", "dog")
        assert found.targets is not None
        assert {file.name: int(number) for file, number in zip(found.files, found.targets, strict=True)} == {
            "cat/0.png": 1,
            "dog/0.png": 2,
        }

    def test_class_that_the_data_lacks(self, tmp_path: Path) -> None:
        settings = DataSettings(
            path=self.folder(tmp_path / "a", "cat"), evaluation=self.folder(tmp_path / "b", "cow")
        )

        with pytest.raises(DataError, match="has the class 'cow', which the other data lacks"):
            read_evaluation(settings, read_columns(settings))


class TestTraining:
    def test_arrays_by_input_name(self) -> None:
        columns = read_columns(
            DataSettings(), {"b": GOOD.astype(np.float64), "a": np.arange(6), "y": np.arange(6)}
        )

        arrays, targets = training_arrays(columns, ["a", "b"])

        assert list(arrays) == ["a", "b"]
        assert arrays["b"].dtype == np.float32
        assert arrays["a"].dtype == np.int64
        assert targets is not None
        with pytest.raises(DataError, match="no array for input 'c'"):
            training_arrays(columns, ["a", "c"])

    def test_example_repeats_what_there_is(self) -> None:
        columns = read_columns(DataSettings(), GOOD[:1])

        assert example(columns, ["input"])["input"].tolist() == [[0, 1], [0, 1]]
        assert example(columns, ["input"], 1)["input"].shape == (1, 2)

    def test_nan_is_told(self) -> None:
        with pytest.raises(DataError, match="input 'a' holds NaN"):
            training_arrays(read_columns(DataSettings(), np.full((2, 2), np.nan)), ["a"])
