import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.data import tables
from converters.data.columns import training_arrays
from converters.data.fitting import samples_of
from converters.data.read import read_columns
from converters.data.settings import DataSettings
from converters.errors import DataError, ToolMissingError
from edge_agent.documents.tensors import TensorSpec

CSV = "height,width,y\n1,2.5,cat\n3,4,dog\n5,6,cat\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


def columns_of(path: Path, **settings: Any):
    return read_columns(DataSettings(path=str(path), **settings))


@pytest.mark.parametrize(
    "text",
    [CSV, CSV.replace(",", ";"), CSV.replace(",", "\t"), CSV.replace("\n", "\r\n"), "\ufeff" + CSV, CSV + "\n"],
)
def test_numbers_become_one_input_and_names_become_classes(tmp_path: Path, text: str) -> None:
    columns = columns_of(written(tmp_path, text))

    samples = samples_of(columns, [TensorSpec("x", "FP32", (-1, 2))])

    assert columns.class_names == ("cat", "dog")
    assert [sample["x"].tolist() for sample in samples.inputs] == [[[1, 2.5]], [[3, 4]], [[5, 6]]]
    assert samples.inputs[0]["x"].dtype == np.float32
    assert samples.classes is not None
    assert samples.classes.tolist() == [0, 1, 0]


def test_inputs_that_are_named_as_columns_get_one_each(tmp_path: Path) -> None:
    columns = columns_of(written(tmp_path, CSV))
    specs = [TensorSpec("width", "FP32", (-1, 1)), TensorSpec("height", "INT64", (-1,))]

    samples = samples_of(columns, specs)
    arrays, targets = training_arrays(columns, ["width", "height"])

    assert samples.inputs[1]["width"].tolist() == [[4]]
    assert samples.inputs[1]["height"].tolist() == [3]
    assert arrays["width"].shape == (3, 1)
    assert targets is not None
    with pytest.raises(DataError, match="no column for input 'depth'"):
        samples_of(columns, [*specs, TensorSpec("depth", "FP32", (-1, 1))])


def test_training_takes_all_columns(tmp_path: Path) -> None:
    arrays, _ = training_arrays(columns_of(written(tmp_path, CSV)), ["x"])

    assert arrays["x"].dtype == np.float32
    assert arrays["x"].tolist() == [[1, 2.5], [3, 4], [5, 6]]


def test_integers_where_the_model_takes_them(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n1,2\n3,4\n")

    assert samples_of(columns_of(path), [TensorSpec("x", "INT32", (-1, 2))]).inputs[1]["x"].tolist() == [[3, 4]]
    path.write_text("a,b\n1,2.5\n3,4\n")
    with pytest.raises(DataError, match="takes int32, the data has float64"):
        samples_of(columns_of(path), [TensorSpec("x", "INT32", (-1, 2))])


@pytest.mark.parametrize(
    ("cells", "targets", "dtype"),
    [("1 0 2", [1, 0, 2], np.int64), ("0.5 1 2", [0.5, 1, 2], np.float64), ("b a b", [1, 0, 1], np.int64)],
)
def test_kinds_of_labels(tmp_path: Path, cells: str, targets: list[float], dtype: type) -> None:
    rows = "".join(f"{index},{cell}\n" for index, cell in enumerate(cells.split()))

    columns = columns_of(written(tmp_path, f"a,target\n{rows}"), labels="target")

    assert columns.targets is not None
    assert columns.targets.tolist() == targets
    assert columns.targets.dtype == dtype


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rows below its header"),
        ("a,b\n", "no rows below its header"),
        ("1,2\n3,4\n", "starts with numbers; its first row should name the columns"),
        ("a,a\n1,2\n", "two columns named 'a'"),
        ("a,\n1,2\n", "no name for column 2"),
        ("a,b\n1\n", "has 1 values in row 2 and 2 columns"),
        ("a,b\n1,x\n", "has 'x', which is no number, in row 2, column 'b'"),
        ("a,b\n1,\n", "has no value, in row 2, column 'b'"),
        ("\na,b\n\n1,2\n\n1,x\n", "in row 6, column 'b'"),
        ("a,b\n\n1\n", "has 1 values in row 3"),
        ('a,b\n1,"' + "9" * 140000 + '"\n', "cannot be read as CSV"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        columns_of(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_nan_shape_labels_and_encoding_are_told(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n1,nan\n")
    with pytest.raises(DataError, match="NaN or infinite"):
        samples_of(columns_of(path), [TensorSpec("x", "FP32", (-1, 2))])
    with pytest.raises(DataError, match="NaN or infinite"):
        training_arrays(columns_of(path), ["x"])
    with pytest.raises(DataError, match=r"should be \[samples, 3\]; the data has \[3, 2\]"):
        samples_of(columns_of(written(tmp_path, CSV)), [TensorSpec("x", "FP32", (-1, 3))])
    with pytest.raises(DataError, match="no labels 'class', it has 'a', 'b'"):
        columns_of(written(tmp_path, "a,b\n1,2\n"), labels="class")
    with pytest.raises(DataError, match="no column beside the labels"):
        training_arrays(columns_of(written(tmp_path, "y\n1\n")), ["x"])
    path.write_bytes("größe,y\n1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match="write it as UTF-8 text"):
        columns_of(path)


class TestParquet:
    def write(self, path: Path, **values: Any) -> Path:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(values), path)
        return path

    def test_same_as_csv(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path / "data.parquet", height=[1, 3, 5], width=[2.5, 4.0, 6.0], y=["cat", "dog", "cat"]
        )

        columns, csv = columns_of(path), columns_of(written(tmp_path, CSV))

        assert columns.class_names == csv.class_names
        for name, array in csv.arrays.items():
            np.testing.assert_array_equal(columns.arrays[name], array)
        assert columns.targets is not None
        assert columns.targets.tolist() == [0, 1, 0]

    def test_labels_that_are_numbers(self, tmp_path: Path) -> None:
        classes = columns_of(self.write(tmp_path / "a.parquet", a=[1.0, 2.0], y=[1, 0]))
        values = columns_of(self.write(tmp_path / "b.parquet", a=[1.0, 2.0], y=[1.5, 0.0]))

        assert classes.classes is not None
        assert values.classes is None
        assert values.targets is not None

    def test_tables_that_are_wrong(self, tmp_path: Path) -> None:
        path = tmp_path / "data.parquet"
        with pytest.raises(DataError, match=r"class number 9223372036854775808 in column 'y'.*from 0"):
            columns_of(self.write(path, a=[1.0], y=np.array([2**63], np.uint64)))
        with pytest.raises(DataError, match="missing values in column 'a'"):
            columns_of(self.write(path, a=[1.0, None]))
        with pytest.raises(DataError, match="other values than numbers in column 'b'"):
            columns_of(self.write(path, a=[1.0], b=["text"]))
        with pytest.raises(DataError, match="other values than numbers in column 'b'"):
            columns_of(self.write(path, a=[1.0], b=[[1.0, 2.0]]))
        with pytest.raises(DataError, match="has no rows"):
            columns_of(self.write(path, a=[]))
        path.write_bytes(b"hello")
        with pytest.raises(DataError, match="not a Parquet file, or damaged"):
            columns_of(path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'pyarrow'"), r"edge-inference-agent\[convert-parquet\]"),
        (ImportError("pyarrow requires NumPy 2.0 or newer"), "requires NumPy 2.0 or newer.*pyarrow<26"),
    ],
)
def test_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: ImportError, said: str
) -> None:
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1")
    real = importlib.import_module

    def failing(name: str, package: str | None = None) -> Any:
        if name.startswith("pyarrow"):
            raise error
        return real(name, package)

    monkeypatch.setattr(tables.importlib, "import_module", failing)
    with pytest.raises(ToolMissingError, match=said):
        columns_of(path)
