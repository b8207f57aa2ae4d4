"""Writes outputs into .npy files, whole or slice by slice; a file has its name only once it is complete."""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import numpy as np
from numpy.lib import format as numpy_format

from edge_agent.cli.arrays import Array
from edge_agent.documents.errors import OperatorError, RequestError

_npy: Any = numpy_format
"""Its functions have no types."""
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_NO_ALLOCATION: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems answer that cannot reserve room."""


def targets(path: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return the file of each output: the path for an only one if it ends in .npy, else files in that folder.

    Raises RequestError for several outputs and one file.
    """
    if path.suffix == ".npy" and not path.is_dir():
        if len(names) != 1:
            raise RequestError(
                f"The model has {len(names)} outputs ({', '.join(names)}), which one file cannot hold; give "
                "--save a folder, or choose one with --output."
            )
        return {names[0]: path}
    found: dict[str, Path] = {}
    for name in names:
        stem = _UNSAFE.sub("_", name).lstrip(".") or "output"
        file = path / f"{stem}.npy"
        if file in found.values():
            file = path / f"{stem}_{len(found)}.npy"
        found[name] = file
    return found


class OutputFiles:
    """The files of one answer; those that are not finished when the context is left are removed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._open: dict[str, tuple[IO[bytes], Path, Path]] = {}
        self.paths: dict[str, Path] = {}
        """The finished files by output."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file, part, _ in self._open.values():
            file.close()
            part.unlink(missing_ok=True)

    def create(self, arrays: dict[str, Array], rows: int | None = None) -> None:
        """Begin a file for each output, with the datatype and shape of these arrays, or that many rows of them.

        Raises OperatorError where there is no room or right to write, RequestError for text in slices, since a
        file has one width for all of it.
        """
        if self._path is None:
            return
        for name, file in targets(self._path, tuple(arrays)).items():
            array = _plain(arrays[name])
            if rows is not None and array.dtype.kind == "S":
                raise RequestError(
                    f"Output '{name}' is text, which cannot be saved in slices; leave it out with --output."
                )
            shape = array.shape if rows is None else (rows, *array.shape[1:])
            with _mapping_errors(file):
                self._open[name] = _begun(file, array.dtype, shape)

    def append(self, arrays: dict[str, Array]) -> None:
        """Write the next rows of each output."""
        for name, (file, _, target) in self._open.items():
            with _mapping_errors(target):
                file.write(np.ascontiguousarray(_plain(arrays[name])).reshape(-1).view(np.uint8).data)

    def finish(self) -> None:
        """Give the files their names, now that all of them are complete."""
        for file, _, target in self._open.values():
            with _mapping_errors(target):
                file.flush()
                os.fsync(file.fileno())
        for name, (file, part, target) in list(self._open.items()):
            with _mapping_errors(target):
                file.close()
                part.replace(target)
            del self._open[name]
            self.paths[name] = target


def _begun(target: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[IO[bytes], Path, Path]:
    """Open a file beside the target, with room reserved for all of it and its header written."""
    if target.suffix == ".npy" and not target.parent.exists():
        target.parent.mkdir(parents=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    # It is closed when the outputs are finished or given up.
    file = part.open("wb")
    try:
        header = {"descr": _npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        _npy.write_array_header_2_0(file, header)
        file.flush()
        _reserve(file, file.tell() + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    except BaseException:
        file.close()
        part.unlink(missing_ok=True)
        raise
    return file, part, target


def _reserve(file: IO[bytes], size_bytes: int) -> None:
    try:
        os.posix_fallocate(file.fileno(), 0, size_bytes)
    except OSError as error:
        if error.errno not in _NO_ALLOCATION:
            raise


def _plain(array: Array) -> Array:
    """Return what a file can hold: text as bytes of one width."""
    return array.astype(np.bytes_) if array.dtype.kind == "O" else array


@contextmanager
def _mapping_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OperatorError(
            f"Cannot write {target}: {(error.strerror or str(error)).lower()}; give --save another place."
        ) from error
