"""Arrays in files: numpy's .npz format, without pickles and with the same bytes for the same arrays.

Golden samples and everything that travels to a worker use the manifest's names, `<sample>/input/<name>` and
`<sample>/output/<name>`.
"""

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

Array = NDArray[Any]

Sample = Mapping[str, Array]
"""Tensors of one run, by input or output name."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip archive can hold."""


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], *, compress: bool = False) -> None:
    """Write named arrays as .npz, in the given order; equal arrays give equal bytes.

    BYTES tensors, object arrays of bytes, are written with as many bytes for each as the longest has, since
    objects would need pickles; zero bytes at the end of one are lost.
    """
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            entry.compress_type = method
            entry.external_attr = 0o644 << 16
            buffer = io.BytesIO()
            npy.write_array(buffer, _plain(array), (1, 0), False)  # type: ignore[no-untyped-call]
            archive.writestr(entry, buffer.getvalue())


def named(samples: Sequence[Sample], kind: Literal["input", "output"]) -> dict[str, NDArray[Any]]:
    """Return the samples' tensors under the manifest's names."""
    return {
        f"{index}/{kind}/{name}": array
        for index, sample in enumerate(samples)
        for name, array in sample.items()
    }


def read_samples(
    path: Path, kind: Literal["input", "output"], names: Iterable[str], count: int
) -> list[dict[str, NDArray[Any]]]:
    """Read `count` samples with these tensor names from a file that `named` arrays were written to."""
    names = list(names)
    with np.load(path, allow_pickle=False) as archive:
        return [{name: archive[f"{index}/{kind}/{name}"] for name in names} for index in range(count)]


def read_all_inputs(path: Path) -> list[dict[str, NDArray[Any]]]:
    """Read every sample's inputs from a file that `named` arrays were written to."""
    samples: dict[int, dict[str, NDArray[Any]]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            index, kind, name = key.split("/", 2)
            if kind == "input":
                samples.setdefault(int(index), {})[name] = archive[key]
    return [samples[index] for index in sorted(samples)]


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    found = np.asarray(array)
    return found.astype(np.bytes_) if found.dtype.kind == "O" else found


def shown(shape: Sequence[int | str]) -> str:
    """Return a shape for a person, free dimensions as `any`."""
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"
