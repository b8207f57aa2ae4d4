"""Sends a large .npy file through a model slice by slice, in little memory."""

import gc
import mmap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_agent.cli.arrays import Array, fitted
from edge_agent.cli.file_kinds import HEAD_BYTES, kind_of
from edge_agent.cli.inputs import opened
from edge_agent.cli.output import Progress
from edge_agent.cli.saving import OutputFiles
from edge_agent.cli.slicing import Slicing
from edge_agent.client import Client, InferResult
from edge_agent.documents.errors import NotFoundError, PayloadTooLargeError, RequestError
from edge_agent.documents.tensors import DATATYPE_OF_NUMPY, TensorSpec

_REDRAW_S: Final = 0.1


class MappedArray:
    """The array of an .npy file, mapped: its pages are let go of as soon as they have been sent."""

    def __init__(self, array: "np.memmap[Any, Any]") -> None:
        self.array = array
        self._mapping: mmap.mmap = array._mmap  # type: ignore[attr-defined]  # numpy has no other way to it
        self._mapping.madvise(mmap.MADV_SEQUENTIAL)

    def rows(self, begin: int, end: int) -> Array:
        """Return rows, which may share the mapping's memory."""
        return self.array[begin:end]

    def forget(self) -> None:
        """Let go of the pages that were read; the file still has them."""
        self._mapping.madvise(mmap.MADV_DONTNEED)


def mapped(path: Path) -> MappedArray | None:
    """Map an .npy file, or return None for another kind of file, also for a damaged or an empty one.

    Raises NotFoundError or OperatorError for a file that cannot be read.
    """
    if not path.is_file() and path.exists():
        return None
    with opened(path) as file:
        if kind_of(file.read(HEAD_BYTES)) != "npy":
            return None
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        # What is wrong with it is told when it is read as a whole.
        return None
    return MappedArray(found) if isinstance(found, np.memmap) and found.size else None


@dataclass(slots=True)
class OutputSummary:
    """One output over all slices; its values where they are finite numbers."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    file: str | None = None
    min: float | None = None
    mean: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Streamed:
    """What became of a file."""

    model_name: str
    model_version: str
    rows: int
    slices: int
    input_bytes: int
    took_s: float
    outputs: tuple[OutputSummary, ...]


class Stream:
    """One run of a file through a model.

    All slices go to the version that answers the first, so that an update or an A/B test in between cannot mix
    answers of several.
    """

    def __init__(
        self, client: Client, model: str, version: str | None, outputs: Sequence[str] | None, spec: TensorSpec
    ) -> None:
        self._client = client
        self._model = model
        self._version = version
        self._outputs = outputs
        self._spec = spec
        self._tallies: dict[str, _Tally] = {}

    def run(self, source: MappedArray, slicing: Slicing, files: OutputFiles, progress: Progress) -> Streamed:
        """Send all rows; raises RequestError for outputs without a row for each, and the client's errors."""
        began_s = drawn_s = time.monotonic()
        done = slices = 0
        rows, name = slicing.first, self._model
        while done < slicing.total:
            sent, result = self._slice(source, done, min(rows, slicing.total - done), slicing)
            outputs = dict(result.outputs)
            if not done:
                self._tallies = {key: _Tally(array) for key, array in outputs.items()}
            self._check(outputs, sent)
            if not done:
                files.create(outputs, slicing.total)
                name, self._version = result.model_name, result.model_version
            files.append(outputs)
            for key, array in outputs.items():
                self._tallies[key].add(array)
            source.forget()
            # What an answer was read with refers to itself, and would be kept until much of it had gathered.
            gc.collect(0)
            done, slices = done + sent, slices + 1
            rows = slicing.after(sent, sum(array.nbytes for array in outputs.values()))
            if (now_s := time.monotonic()) - drawn_s >= _REDRAW_S:
                drawn_s = now_s
                progress.bar(done / slicing.total, source.array.nbytes, now_s - began_s)
        files.finish()
        progress.end()
        return Streamed(
            model_name=name,
            model_version=self._version or "",
            rows=done,
            slices=slices,
            input_bytes=source.array.nbytes,
            took_s=time.monotonic() - began_s,
            outputs=tuple(
                tally.summary(key, slicing.total, files.paths.get(key)) for key, tally in self._tallies.items()
            ),
        )

    def _slice(self, source: MappedArray, begin: int, rows: int, slicing: Slicing) -> tuple[int, InferResult]:
        """Send rows from `begin`, fewer where the server says that they are too much for one request."""
        while True:
            tensor = fitted(source.rows(begin, begin + rows), self._spec)
            try:
                return rows, self._client.infer(
                    self._model, {self._spec.name: tensor}, self._version, self._outputs
                )
            except PayloadTooLargeError:
                if slicing.is_fixed or rows == 1:
                    raise
                rows //= 2
            except NotFoundError as error:
                if not begin:
                    raise
                raise NotFoundError(
                    f"Version {self._version} went away after {begin} of {slicing.total} rows; start again, so "
                    "that one version answers all of them."
                ) from error

    def _check(self, outputs: dict[str, Array], rows: int) -> None:
        for name, array in outputs.items():
            if not array.shape or array.shape[0] != rows:
                raise RequestError(
                    f"Output '{name}' has the shape {list(array.shape)} for {rows} rows, not a row for each, "
                    "so that the file cannot be sent in slices; give fewer rows, or leave it out with --output."
                )
            if array.shape[1:] != self._tallies[name].rest:
                raise RequestError(
                    f"Output '{name}' has rows of {list(array.shape[1:])} after some of "
                    f"{list(self._tallies[name].rest)}, which no one array holds; leave it out with --output."
                )


class _Tally:
    """Counts the values of one output."""

    def __init__(self, array: Array) -> None:
        self.rest = array.shape[1:]
        self._datatype = DATATYPE_OF_NUMPY.get(array.dtype.name, array.dtype.name)
        self._low, self._high = np.inf, -np.inf
        self._sum, self._count = 0.0, 0

    def add(self, array: Array) -> None:
        if array.dtype.kind not in "biuf":
            return
        values = array if array.dtype.kind != "f" or np.isfinite(array).all() else array[np.isfinite(array)]
        if values.size:
            self._low = min(self._low, float(values.min()))
            self._high = max(self._high, float(values.max()))
            self._sum += float(values.sum(dtype=np.float64))
            self._count += values.size

    def summary(self, name: str, rows: int, file: Path | None) -> OutputSummary:
        found = OutputSummary(name, self._datatype, (rows, *self.rest), None if file is None else str(file))
        if self._count:
            found.min, found.max, found.mean = self._low, self._high, self._sum / self._count
        return found
