"""Data as it was read, before it is known what a model takes; and what a model is trained with.

A framework's model is exported, and pruned, before there is a file whose inputs could be asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Array
from converters.data import audio, images
from converters.data.casting import check_finite
from converters.data.folders import DataFile
from converters.data.live import ONE_INPUT
from converters.data.samples import Targets, classes_of
from converters.data.settings import DataSettings
from converters.data.splitting import apart, halves, key_of
from converters.errors import DataError

Kind = Literal["arrays", "table", "images", "audio"]


@dataclass(frozen=True, slots=True)
class Columns:
    """Samples of one kind: arrays by name, samples along axis 0, or one file a sample, read when needed."""

    kind: Kind
    sha256: str
    """Of the file; for a folder of names and bytes of the files that were chosen; for arrays of their bytes."""
    settings: DataSettings
    arrays: Mapping[str, Array] = field(default_factory=dict)
    """For a table float64 [n] by column."""
    files: tuple[DataFile, ...] = ()
    targets: Targets | None = None
    """Class numbers, int64 [n], or values, float64 [n, ...]; None where nothing is known."""
    class_names: tuple[str, ...] = ()
    """Empty where the labels are no names."""
    labels: Array | None = None
    """The array that the targets were read from if it stood among the others: it may be an input after all."""

    def __len__(self) -> int:
        if self.files:
            return len(self.files)
        return next((len(array) for array in self.arrays.values() if array.ndim), 0)

    @property
    def paths(self) -> list[Path]:
        """Where the files lie."""
        return [file.path for file in self.files]

    @property
    def rate_hz(self) -> int | None:
        """The sample rate that all .wav files have, None for other data; raises DataError when they differ."""
        return audio.common_rate(self.paths) if self.kind == "audio" else None

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """The class number of each sample, None where the targets are values or missing."""
        return classes_of(self.targets)

    def keys(self) -> list[bytes]:
        """Return what is equal for equal samples."""
        if self.files:
            return [file.sha256.encode() for file in self.files]
        return [
            key_of({name: array[index] for name, array in self.arrays.items()}) for index in range(len(self))
        ]

    def take(self, indexes: NDArray[np.intp]) -> "Columns":
        """Return the samples at these positions; the digest stays that of all."""
        return replace(
            self,
            arrays={name: array[indexes] for name, array in self.arrays.items()},
            files=tuple(self.files[index] for index in indexes) if self.files else (),
            targets=None if self.targets is None else self.targets[indexes],
            labels=None if self.labels is None else self.labels[indexes],
        )


@dataclass(frozen=True, slots=True)
class Division:
    """Samples to train and calibrate with, and others to evaluate with."""

    training: Columns
    evaluation: Columns


def divide(columns: Columns, evaluation: Columns | None = None) -> Division:
    """Divide in halves before a model is trained, so that it has seen nothing of what evaluates it.

    With `evaluation` that is what evaluates, and training gets those that are not in it. Equal samples go to
    one side, and to training once. Raises DataError when there are too few.
    """
    keys = columns.keys()
    if evaluation is not None:
        kept = apart(keys, set(evaluation.keys()), columns.classes)
        if not len(kept):
            raise DataError("All samples are in the evaluation data too; give others to train with.")
        return Division(columns.take(kept), evaluation)
    first, second = halves(keys, columns.classes, len(columns))
    return Division(columns.take(first), columns.take(second))


def training_arrays(
    columns: Columns, input_names: Sequence[str], *, channels_first: bool = False
) -> tuple[dict[str, Array], Targets | None]:
    """Return arrays by input name, samples along axis 0, and the targets, to train with.

    Floats are float32. Images are [n, height, width, channels], or with `channels_first` [n, channels, height,
    width]; audio is [n, samples]; the columns of a table become one input [n, columns], or [n, 1] each where
    the inputs are named as columns are. Raises DataError for what does not fit, and for NaN.
    """
    if columns.files:
        name = _only(columns, input_names)
        return {name: _from_files(columns, columns, channels_first=channels_first)}, columns.targets
    found = table_inputs(columns, input_names) if columns.kind == "table" else by_input(columns, input_names)
    for name, array in found.items():
        check_finite(name, array)
    targets = None if columns.labels is not None and columns.settings.labels in input_names else columns.targets
    return {name: _single(array) for name, array in found.items()}, targets


def example(
    columns: Columns, input_names: Sequence[str], count: int = 2, *, channels_first: bool = False
) -> dict[str, Array]:
    """Return the arrays of the first samples, repeated where there are fewer than `count`."""
    few = columns.take(np.arange(count, dtype=np.intp) % max(1, len(columns)))
    if not columns.files:
        return training_arrays(few, input_names)[0]
    name = _only(columns, input_names)
    return {name: _from_files(few, columns, channels_first=channels_first)}


def by_input(columns: Columns, names: Sequence[str]) -> dict[str, Array]:
    """Return the array of each input; the only input takes an array of any name.

    Raises DataError for an input without an array, and for an array without an input.
    """
    label, arrays = columns.settings.labels, dict(columns.arrays)
    if columns.labels is not None and label in names:
        arrays[label] = columns.labels
    given = [name for name in arrays if name in names or name != label]
    if len(names) == 1 and names[0] not in given:
        chosen = given[0] if len(given) == 1 else ONE_INPUT if ONE_INPUT in given else None
        if chosen is not None:
            return {names[0]: arrays[chosen]}
    wanted = ", ".join(f"'{name}'" for name in names)
    if absent := [name for name in names if name not in given]:
        held = ", ".join(f"'{name}'" for name in arrays) or "nothing"
        raise DataError(
            f"The data has no array for input '{absent[0]}': the model takes {wanted}, it has {held}."
        )
    if stray := [name for name in given if name not in names]:
        raise DataError(f"The data has an array '{stray[0]}', which is no input: the model takes {wanted}.")
    return {name: arrays[name] for name in names}


def table_inputs(columns: Columns, names: Sequence[str]) -> dict[str, Array]:
    """Return a table as float64 [n, columns] for one input, or [n, 1] for each input named as a column is.

    Raises DataError when there are several inputs and not a column for each.
    """
    if all(name in columns.arrays for name in names):
        return {name: columns.arrays[name][:, None] for name in names}
    if len(names) > 1:
        absent = next(name for name in names if name not in columns.arrays)
        raise DataError(f"The table has no column for input '{absent}'; name a column as each input.")
    if not columns.arrays:
        raise DataError("The table has no column beside the labels; give the model's inputs too.")
    return {names[0]: np.stack(list(columns.arrays.values()), axis=1)}


def _only(columns: Columns, input_names: Sequence[str]) -> str:
    if len(input_names) != 1:
        raise DataError(
            f"A folder of {columns.kind} feeds one input, the model takes {', '.join(input_names)}; give an "
            ".npz file with an array for each."
        )
    return input_names[0]


def _from_files(few: Columns, columns: Columns, *, channels_first: bool) -> Array:
    """Read some files in the size that all have."""
    settings, paths = columns.settings, columns.paths
    if columns.kind == "audio":
        audio.common_rate(paths)
        return audio.stacked(few.paths, settings, audio.common_length(paths))
    size, channels = images.common_size(paths, settings), images.common_channels(paths, settings)
    pixels = images.stacked(few.paths, settings, size, channels)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)) if channels_first else pixels


def _single(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float64 else array
