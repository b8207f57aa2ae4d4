"""Decides in which slices along its first dimension a large array goes to a model. Pure.

Rows are taken to be independent of each other, as those of a batch are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import ITEM_SIZE_BYTES, TensorSpec

SLICE_BYTES: Final = 2**20
"""Of inputs, and of outputs, in one request: 4 MiB are no faster and take four times the memory."""
MAX_WHOLE_BYTES: Final = 512 * 2**20
"""What cannot be sliced goes as one request, which takes its size in memory several times over."""
FIRST_ROWS: Final = 64
"""As many rows go first where nothing says how large the outputs are."""


@dataclass(frozen=True, slots=True)
class Slicing:
    """How many rows go in one request: at most `rows`, at first `first`."""

    total: int
    rows: int
    first: int
    is_fixed: bool
    """Nothing but `rows` is to be tried: the caller or the model wants it so."""

    def after(self, rows: int, output_bytes: int) -> int:
        """Return how many rows go next, after `rows` were answered with so many bytes."""
        if self.is_fixed:
            return self.rows
        return max(1, min(self.rows, SLICE_BYTES * rows // max(1, output_bytes)))


def plan(
    shape: tuple[int, ...],
    item_bytes: int,
    spec: TensorSpec,
    outputs: Sequence[TensorSpec],
    *,
    wanted_rows: int | None = None,
    max_batch: int | None = None,
) -> Slicing | None:
    """Return how an array of this shape goes to the only input of a model, or None for one request.

    `max_batch` is the model's own limit, if it has one: the agent runs larger requests in slices of that many,
    so that those here are a multiple of it. Raises RequestError for what would have to be sliced and cannot.
    """
    if not spec.shape or len(shape) != len(spec.shape) or 0 in shape or not _fits(shape, spec):
        if wanted_rows is not None:
            raise _no_rows(shape, spec)
        return None
    total, per_row = shape[0], math.prod(shape[1:]) * item_bytes
    if spec.shape[0] == 1:
        if wanted_rows not in (None, 1):
            raise RequestError(f"Input '{spec.name}' takes one row at a time; leave --rows out.")
        return None if total == 1 else _sliced(total, 1, outputs, spec, is_fixed=True)
    known = [_row_bytes(output) for output in outputs]
    heaviest = max(per_row, sum(size or 0 for size in known), 1)
    rows = wanted_rows or max(1, SLICE_BYTES // heaviest)
    if max_batch is not None and wanted_rows is None and rows > max_batch:
        rows -= rows % max_batch
    if total <= rows:
        return None
    if not _can_slice(outputs, spec) and wanted_rows is None and total * per_row <= MAX_WHOLE_BYTES:
        return None
    is_known = None not in known or wanted_rows is not None
    return _sliced(total, rows, outputs, spec, is_fixed=wanted_rows is not None, is_known=is_known)


def _sliced(
    total: int,
    rows: int,
    outputs: Sequence[TensorSpec],
    spec: TensorSpec,
    *,
    is_fixed: bool,
    is_known: bool = True,
) -> Slicing:
    if not _can_slice(outputs, spec):
        names = ", ".join(output.name for output in outputs if not _has_rows(output, spec))
        raise RequestError(
            f"The file has {total} rows, too many for one request, and cannot be sent in slices, since output "
            f"{names} has not a row for each; give fewer rows, or leave that output out with --output."
        )
    return Slicing(total, rows, rows if is_known else min(rows, FIRST_ROWS), is_fixed)


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return spec.shape[0] in (-1, 1) and TensorSpec(spec.name, spec.datatype, (-1, *spec.shape[1:])).accepts(
        shape
    )


def _no_rows(shape: tuple[int, ...], spec: TensorSpec) -> RequestError:
    return RequestError(
        f"Rows of a file of shape {list(shape)} cannot go to input '{spec.name}', which takes "
        f"{list(spec.shape)} (-1 is free); leave --rows out, or bring the file into that shape."
    )


def _can_slice(outputs: Sequence[TensorSpec], spec: TensorSpec) -> bool:
    return all(_has_rows(output, spec) for output in outputs)


def _has_rows(output: TensorSpec, spec: TensorSpec) -> bool:
    return bool(output.shape) and output.shape[0] in (-1, spec.shape[0])


def _row_bytes(output: TensorSpec) -> int | None:
    """Return the bytes of an output for one row, or None where its shape or its text does not say."""
    size = ITEM_SIZE_BYTES.get(output.datatype)
    return None if size is None or -1 in output.shape[1:] else size * math.prod(output.shape[1:])
