"""From data as it was read to samples that fit a model's inputs."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import shown
from converters.data import audio, images
from converters.data.casting import cast, check_finite, check_numeric, is_float
from converters.data.columns import Columns, by_input, table_inputs
from converters.data.samples import Samples
from converters.errors import DataError
from converters.terms import Advanced, unheard
from edge_agent.documents.tensors import NUMPY_NAME, TensorSpec

MAX_FILE_SAMPLES_BYTES: Final = 768 * 2**20
"""Samples stay in memory: of a folder of files no more are read than this holds, and at least LEAST."""
LEAST: Final = 16


def samples_of(columns: Columns, specs: Sequence[TensorSpec], advanced: Advanced = unheard) -> Samples:
    """Return one sample for each run of a model with these inputs; `advanced` hears the share of files read.

    Raises DataError with what does not fit: names, counts, shapes, datatypes, NaN, damaged files.
    """
    if columns.files:
        return _from_files(columns, specs, advanced)
    names = [spec.name for spec in specs]
    if columns.kind == "table":
        named = table_inputs(columns, names)
        fitted = {spec.name: _rows(spec, _table(spec, named[spec.name])) for spec in specs}
        return _together(fitted, columns)
    named = by_input(columns, names)
    is_input = columns.labels is not None and columns.settings.labels in names
    fitted = {spec.name: _rows(spec, cast(spec, named[spec.name]), named[spec.name]) for spec in specs}
    return _together(fitted, columns, has_targets=not is_input)


def _together(fitted: dict[str, list[NDArray[Any]]], columns: Columns, *, has_targets: bool = True) -> Samples:
    count = len(next(iter(fitted.values())))
    inputs = tuple({name: rows[index] for name, rows in fitted.items()} for index in range(count))
    return Samples(inputs, columns.targets if has_targets else None)


def _from_files(columns: Columns, specs: Sequence[TensorSpec], advanced: Advanced) -> Samples:
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise DataError(
            f"A folder of {columns.kind} feeds one input, the model takes {names}; give an .npz file with an "
            "array for each."
        )
    spec, fit = specs[0], images.fit if columns.kind == "images" else audio.fit
    rows: Iterator[NDArray[Any]] = fit(columns.paths, spec, columns.settings)
    first = next(rows)
    count = min(len(columns), max(LEAST, MAX_FILE_SAMPLES_BYTES // max(1, first.nbytes)))
    inputs = [{spec.name: first}]
    for row in itertools.islice(rows, count - 1):
        inputs.append({spec.name: row})
        advanced(len(inputs) / count)
    return Samples(tuple(inputs), None if columns.targets is None else columns.targets[:count])


def _rows(spec: TensorSpec, typed: NDArray[Any], given: NDArray[Any] | None = None) -> list[NDArray[Any]]:
    if spec.accepts(typed.shape[1:]):
        return [np.array(row, order="C") for row in typed]
    if spec.accepts((1, *typed.shape[1:])):
        return [np.ascontiguousarray(typed[index : index + 1]) for index in range(len(typed))]
    without = spec.shape[1:] if spec.shape[:1] in ((1,), (-1,)) else spec.shape
    raise DataError(
        f"Input '{spec.name}' has shape {shown(spec.shape)}, so its array should be "
        f"{shown(('samples', *without))}; the data has {shown((typed if given is None else given).shape)}."
    )


def _table(spec: TensorSpec, values: NDArray[np.float64]) -> NDArray[Any]:
    """Return a table's numbers in the input's datatype: it does not say whether 1 is an integer."""
    check_numeric(spec)
    check_finite(spec.name, values)
    if np.dtype(NUMPY_NAME[spec.datatype]).kind in "iu" and not is_float(spec) and not (values % 1).any():
        typed = cast(spec, values.astype(np.int64))
    else:
        typed = cast(spec, values)
    # One number a sample may be an axis of its own or none.
    return typed[:, 0] if len(spec.shape) <= 1 and typed.shape[1:] == (1,) and spec.shape != (1,) else typed
