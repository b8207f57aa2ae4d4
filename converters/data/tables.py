"""CSV and Parquet files: numeric columns, and one of labels. The one module here that uses pyarrow."""

import csv
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Array
from converters.errors import DataError, ToolMissingError, missing

_DELIMITERS: Final = (",", ";", "\t")

Table = dict[str, Array]
"""Columns by name in the file's order: floats [n]; the labels may be text (object) or integers too."""

Rows = list[tuple[int, list[str]]]
"""Rows that are not blank, with their numbers in the file, from 1."""


def read_csv(path: Path, labels: str) -> Table:
    """Read a CSV file with a header row, separated by commas, semicolons or tabs.

    Raises DataError for a file without a header or rows, for rows of other lengths and for cells without a
    number; the column `labels` may hold text.
    """
    header, rows = _rows(path)
    _check_header(path, header, rows)
    numbers = [number for number, _ in rows]
    cells = list(zip(*(row for _, row in rows), strict=True))
    return {
        name: _label_cells(list(column)) if name == labels else _numbers(path, name, numbers, column)
        for name, column in zip(header, cells, strict=True)
    }


def read_parquet(path: Path, labels: str) -> Table:
    """Read a Parquet file; raises DataError for columns that are not numbers, and for missing values."""
    parquet = _import_parquet()
    try:
        table = parquet.read_table(path)
    except Exception as error:
        raise DataError(f"{path} is not a Parquet file, or damaged; write it again.") from error
    found: Table = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in found:
            raise DataError(f"{path} has two columns named '{name}'; name each once.")
        if column.null_count:
            raise DataError(f"{path} has missing values in column '{name}'; fill them in or remove the rows.")
        found[name] = _parquet_column(path, name, column.to_pylist(), is_label=name == labels)
    if not found or not table.num_rows:
        raise DataError(f"{path} has no rows; give one sample a row.")
    return found


def _parquet_column(path: Path, name: str, values: list[Any], *, is_label: bool) -> Array:
    if is_label and isinstance(values[0] if values else None, (str, int, bool)):
        text = isinstance(values[0], str)
        return _objects(values) if text else _integers(path, name, values)
    if not all(isinstance(value, (int, float)) for value in values):
        raise DataError(
            f"{path} has other values than numbers in column '{name}'; leave it out, or name it as the labels."
        )
    return np.asarray(values, np.float64)


def _integers(path: Path, name: str, values: list[Any]) -> NDArray[np.int64]:
    try:
        return np.asarray(values, np.int64)
    except OverflowError as error:
        raise DataError(
            f"{path} has the class number {max(values)} in column '{name}', which is too large; number "
            "the classes from 0."
        ) from error


def _rows(path: Path) -> tuple[list[str], Rows]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            start = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=start.count)
            rows = [(at, row) for at, row in enumerate(csv.reader(file, delimiter=delimiter), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}); write it as UTF-8 text.") from error
    if len(rows) < 2:
        raise DataError(f"{path} has no rows below its header; give one sample a row.")
    return [name.strip() for name in rows[0][1]], rows[1:]


def _check_header(path: Path, header: Sequence[str], rows: Rows) -> None:
    if all(_is_number(name) for name in header):
        raise DataError(f"{path} starts with numbers; its first row should name the columns.")
    for index, name in enumerate(header):
        if not name:
            raise DataError(f"{path} has no name for column {index + 1}; name each in the first row.")
        if name in header[:index]:
            raise DataError(f"{path} has two columns named '{name}'; name each once.")
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path} has {len(row)} values in row {number} and {len(header)} columns.")


def _numbers(path: Path, name: str, numbers: Sequence[int], cells: Sequence[str]) -> NDArray[np.float64]:
    for number, cell in zip(numbers, cells, strict=True):
        if not _is_number(cell):
            what = f"'{cell.strip()}', which is no number" if cell.strip() else "no value"
            raise DataError(
                f"{path} has {what}, in row {number}, column '{name}'; leave that column out, or name it as "
                "the labels."
            )
    return np.array([float(cell) for cell in cells], np.float64)


def _label_cells(cells: list[str]) -> Array:
    """Return integers where all cells are, else floats where all are, else text."""
    stripped = [cell.strip() for cell in cells]
    for kind, dtype in ((int, np.int64), (float, np.float64)):
        try:
            return np.array([kind(cell) for cell in stripped], dtype)
        except (ValueError, OverflowError):
            continue
    return _objects(stripped)


def _objects(values: Sequence[Any]) -> Array:
    found = np.empty(len(values), np.object_)
    found[:] = values
    return found


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _import_parquet() -> ModuleType:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise missing("pyarrow", "convert-parquet") from error
    except ImportError as error:
        # pyarrow 26 and later need numpy 2, which tflite-runtime does not run with.
        raise ToolMissingError(
            f"pyarrow cannot be imported ({' '.join(str(error).split())}); install an older one with: pip "
            "install 'pyarrow<26'."
        ) from error
