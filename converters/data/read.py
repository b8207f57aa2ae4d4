"""Reads the user's data, whatever kind it is."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from converters.arrays import Array
from converters.data.columns import Columns
from converters.data.folders import read_folder
from converters.data.live import ONE_INPUT, Given, LiveData, read_live
from converters.data.settings import DataSettings
from converters.data.splitting import stratified
from converters.data.tables import read_csv, read_parquet
from converters.data.targets import Labels, read_labels, renumbered
from converters.errors import DataError
from converters.importing import imported, is_importable

KINDS: Final = (
    "an .npz, .npy, .csv or .parquet file, a folder of images or .wav files, or package.module:function"
)
_USUAL_LABELS: Final = DataSettings().labels


def read_columns(settings: DataSettings, live: LiveData | None = None, limit: int | None = None) -> Columns:
    """Read what `settings.path` names, or what the caller gave as `live`.

    At most `limit` samples are chosen with a fixed seed; classes keep their shares. Raises DataError for what
    cannot be read or is inconsistent, RequestError for a function that cannot be imported, ToolMissingError for
    a missing package.
    """
    if live is not None:
        return _limited(_from_arrays(settings, read_live(live), None), limit)
    if is_importable(settings.path):
        function = imported(settings.path, Path(settings.import_from))
        return _limited(_from_arrays(settings, read_live(function), None), limit)
    path = Path(settings.path)
    if path.is_dir():
        return _from_folder(settings, path, limit)
    return _limited(_from_file(settings, path), limit)


def read_evaluation(
    settings: DataSettings, columns: Columns, live: LiveData | None = None, limit: int | None = None
) -> Columns | None:
    """Read the separate evaluation data, with classes numbered as those of `columns`; None if there is none."""
    if live is None and not settings.evaluation:
        return None
    found = read_columns(replace(settings, path=settings.evaluation), live, limit)
    labels = renumbered(Labels(found.targets, found.class_names), columns.class_names)
    return replace(found, targets=labels.targets, class_names=labels.class_names)


def _from_file(settings: DataSettings, path: Path) -> Columns:
    content = _digest(path)
    match path.suffix.lower():
        case ".npz":
            return _from_arrays(settings, Given(_read_npz(path, settings)), content)
        case ".npy":
            return _from_arrays(settings, Given({ONE_INPUT: _read_npy(path)}), content)
        case ".csv":
            return _from_table(settings, read_csv(path, settings.labels), content)
        case ".parquet":
            return _from_table(settings, read_parquet(path, settings.labels), content)
    raise DataError(f"{path} is of a kind that is not read; give {KINDS}.")


def _digest(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is neither a file nor a folder; give {KINDS}.")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; give {KINDS}.") from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}; check its permissions.") from error


def _read_npz(path: Path, settings: DataSettings) -> dict[str, Array]:
    try:
        # numpy leaves a file open whose archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:
        # numpy, zipfile and zlib each have exceptions of their own for a damaged archive.
        raise DataError(
            f"{path} is not an .npz file of plain arrays; save it with numpy.savez(path, input=array, "
            f"{settings.labels or _USUAL_LABELS}=classes), without object arrays."
        ) from error


def _read_npy(path: Path) -> Array:
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            several = not isinstance(found, np.ndarray)
    except Exception as error:
        raise DataError(
            f"{path} is not an .npy file of a plain array; save it with numpy.save(path, array), without "
            "objects."
        ) from error
    if several:
        raise DataError(f"{path} holds several arrays; name it .npz.")
    array: Array = found
    return array


def _from_arrays(settings: DataSettings, given: Given, sha256: str | None) -> Columns:
    """Take the labels out of the arrays; one array alone is an input whatever its name."""
    arrays, name, among = dict(given.arrays), settings.labels, None
    labels = given.labels
    if labels is None and name in arrays and len(arrays) > 1:
        among = labels = arrays.pop(name)
    elif labels is None and name != _USUAL_LABELS:
        _check_named(name, arrays)
    if arrays:
        _check_lengths(arrays if labels is None else {**arrays, name: labels})
    found = Labels() if labels is None else read_labels(labels, name)
    return Columns(
        "arrays",
        sha256 or given.sha256,
        settings,
        arrays,
        targets=found.targets,
        class_names=found.class_names,
        labels=among,
    )


def _from_table(settings: DataSettings, table: Mapping[str, Array], sha256: str) -> Columns:
    arrays, name = dict(table), settings.labels
    if name != _USUAL_LABELS:
        _check_named(name, arrays)
    labels = arrays.pop(name, None)
    found = Labels() if labels is None else read_labels(labels, name)
    return Columns("table", sha256, settings, arrays, targets=found.targets, class_names=found.class_names)


def _from_folder(settings: DataSettings, path: Path, limit: int | None) -> Columns:
    folder = read_folder(path, limit)
    return Columns(
        folder.kind,
        folder.sha256,
        settings,
        files=folder.files,
        targets=folder.classes,
        class_names=folder.class_names,
    )


def _limited(columns: Columns, limit: int | None) -> Columns:
    if limit is None or len(columns) <= limit:
        return columns
    return columns.take(stratified(columns.classes, len(columns))[:limit])


def _check_named(name: str, arrays: Mapping[str, Any]) -> None:
    if name and name not in arrays:
        held = ", ".join(f"'{one}'" for one in arrays) or "nothing"
        raise DataError(f"The data has no labels '{name}', it has {held}; say which with labels.")


def _check_lengths(arrays: Mapping[str, Array]) -> None:
    """Raise DataError unless all arrays hold the same number of samples, at least one."""
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if min(lengths.values()) == 0:
        empty = next(name for name, length in lengths.items() if not length)
        raise DataError(f"The array '{empty}' holds no samples; they go along its first axis.")
    if len(set(lengths.values())) != 1:
        counts = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
        raise DataError(f"The arrays hold different numbers of samples: {counts}; give as many of each.")
