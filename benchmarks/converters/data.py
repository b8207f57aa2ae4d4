"""The data sets that the benchmark trains on: read, cleaned, and split with a seed.

A set is split in three: what a model is trained on, what the converter gets (to calibrate and to judge), and
what the benchmark scores with, which neither training nor the converter ever sees.
"""

import gzip
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.converters.fetch import cached

Array = NDArray[Any]

ANIMALS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
WINDOW = 40
"""Steps, 0.1 s each, of a window of BasicMotions; a series has 100."""
STEP = 10


class UnsafePickleError(Exception):
    """A pickle asks for more than plain arrays of numbers."""


@dataclass(frozen=True)
class Part:
    """Samples along axis 0, and the class number of each."""

    x: Array
    y: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indexes: Array) -> "Part":
        return Part(self.x[indexes], self.y[indexes])

    def first(self, count: int) -> "Part":
        return Part(self.x[:count], self.y[:count])


@dataclass(frozen=True)
class DataSet:
    """A set in its three parts."""

    train: Part
    conversion: Part
    """What the converter gets; not trained on, so that a drop there is an honest one."""
    test: Part


def digits(seed: int) -> DataSet:
    """Return scikit-learn's digits: float32 [n, 8, 8, 1], 0 to 1, 10 classes; 1,797 images."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = (x.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    return split(Part(images, y.astype(np.int64)), seed, conversion=300, test=500)


def animals(seed: int) -> DataSet:
    """Return animal-mnist without its duplicates: float32 [n, 28, 28, 1], 0 to 1, 10 classes; 9,716 images."""
    images = read_arrays(gzip.decompress(cached("animal_data_version_3.gz").read_bytes()))
    labels = read_arrays(gzip.decompress(cached("animal_label_version_3.gz").read_bytes()))
    keep = first_of_each(images)
    x = (images[keep].reshape(-1, 28, 28, 1) / 255).astype(np.float32)
    return split(Part(x, labels[keep].astype(np.int64)), seed, conversion=1000, test=2000)


def motions(seed: int) -> DataSet:
    """Return BasicMotions in windows of 4 s: float32 [n, 6, WINDOW], acceleration and then rotation, 4 classes.

    The 80 series are divided, not their windows, as those of one series overlap.
    """
    parts = [parse_ts(cached(f"BasicMotions_{name}.ts").read_text()) for name in ("TRAIN", "TEST")]
    series = Part(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))
    whole = split(series, seed, conversion=16, test=24)
    return DataSet(windows(whole.train), windows(whole.conversion), windows(whole.test))


def split(part: Part, seed: int, *, conversion: int, test: int) -> DataSet:
    """Shuffle, and divide; conversion and test get that many samples, training the rest."""
    order = np.random.default_rng(seed).permutation(len(part))
    return DataSet(
        train=part.take(order[conversion + test :]),
        conversion=part.take(order[:conversion]),
        test=part.take(order[conversion : conversion + test]),
    )


def windows(series: Part) -> Part:
    """Cut every series of shape [channels, steps] into windows of WINDOW steps, STEP apart."""
    starts = range(0, series.x.shape[-1] - WINDOW + 1, STEP)
    x = np.concatenate([series.x[:, :, start : start + WINDOW] for start in starts])
    return Part(np.ascontiguousarray(x), np.tile(series.y, len(starts)))


def first_of_each(images: Array) -> NDArray[np.intp]:
    """Return the positions of the samples that equal none before them, in order."""
    flat = images.reshape(len(images), -1)
    return np.sort(np.unique(flat, axis=0, return_index=True)[1])


def parse_ts(text: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return series [n, channels, steps] and class numbers of a .ts file with series of one length.

    The header's `@classLabel true A B …` gives the classes in their order; then follows a line per series: its
    channels with colons between them and the class at the end. Format:
    https://www.aeon-toolkit.org/en/stable/api_reference/file_specifications/ts.html
    """
    header, _, body = text.partition("@data")
    classes: list[str] = []
    for line in header.splitlines():
        words = line.split()
        if words and words[0].lower() == "@classlabel" and words[1].lower() == "true":
            classes = words[2:]
    if not classes:
        raise ValueError("The file names no classes; it needs a line '@classLabel true A B'.")
    rows = [line.strip().split(":") for line in body.splitlines() if line.strip()]
    series = [[np.array(channel.split(","), np.float32) for channel in row[:-1]] for row in rows]
    return np.array(series, np.float32), np.array([classes.index(row[-1]) for row in rows], np.int64)


def read_arrays(content: bytes) -> Array:
    """Return the one array of numbers that a pickle holds.

    A pickle can name any function and have it called, so this one may name nothing but what rebuilds arrays.
    Source: https://docs.python.org/3/library/pickle.html#restricting-globals. Raises UnsafePickleError.
    """
    array = _ArrayUnpickler(io.BytesIO(content)).load()
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise UnsafePickleError("The pickle holds something other than an array of numbers; it is not read.")
    return array


class _ArrayUnpickler(pickle.Unpickler):
    """Finds numpy's `_reconstruct`, `ndarray` and `dtype`, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise UnsafePickleError(f"The pickle asks for {module}.{name}; only arrays are read.")
        return found


_RECONSTRUCT: Callable[..., Array] = np.zeros(0).__reduce__()[0]  # type: ignore[assignment]
_ALLOWED: dict[tuple[str, str], Any] = {
    # numpy 2 renamed the module.
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def read_wav(path: Path) -> NDArray[np.float32]:
    """Return the samples of a mono .wav file of 16 bits, -1 to 1."""
    import wave

    with wave.open(str(path)) as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, 2):
            raise ValueError(f"{path} is not mono with 16 bits.")
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return (raw / 32768).astype(np.float32)
