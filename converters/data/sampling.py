"""The samples of a conversion: read from .npz or generated, checked against the model, split.

A sample is one run of the model. No sample is used for both calibration and evaluation; golden samples are
evaluation samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Sample
from converters.errors import DataError
from edge_agent.documents.tensors import NUMPY_NAME, TensorSpec

SEED: Final = 0
GENERATED: Final = 200
"""Generated samples: one that changes its class is half a point of agreement."""
MAX_CALIBRATION: Final = 256
"""MinMax ranges hardly move after a few hundred samples."""
MAX_EVALUATION: Final = 2000
MIN_PER_SPLIT: Final = 8
FREE_DIMENSION: Final = 32
"""Size of a generated sample's free dimensions after the first, which gets 1."""

_LABELS: Final = "y"
_ANY_INPUT: Final = "x"
_FLOAT_STEPS: Final = 256

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples and, where known, the class of each."""

    inputs: tuple[Sample, ...]
    labels: NDArray[np.int64] | None = None
    generated: bool = False

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indexes: NDArray[np.intp]) -> "Samples":
        """Return the samples at these positions."""
        labels = None if self.labels is None else self.labels[indexes]
        return Samples(tuple(self.inputs[index] for index in indexes), labels, self.generated)


@dataclass(frozen=True, slots=True)
class Split:
    """Samples for calibration, empty when none is needed, and others for evaluation."""

    calibration: Samples
    evaluation: Samples


def split(samples: Samples, *, calibrating: bool) -> Split:
    """Shuffle with a fixed seed and divide; half calibrates, at most MAX_CALIBRATION.

    Raises DataError when one side would get fewer than MIN_PER_SPLIT samples.
    """
    order = np.random.default_rng(SEED).permutation(len(samples))
    if not calibrating:
        return Split(samples.take(order[:0]), samples.take(order[:MAX_EVALUATION]))
    if len(samples) < 2 * MIN_PER_SPLIT:
        raise DataError(
            f"The data holds {len(samples)} samples; int8 needs at least {2 * MIN_PER_SPLIT}: half to "
            "calibrate and half to evaluate."
        )
    count = min(len(samples) // 2, MAX_CALIBRATION)
    return Split(samples.take(order[:count]), samples.take(order[count : count + MAX_EVALUATION]))


def read_data(path: Path, specs: Sequence[TensorSpec]) -> Samples:
    """Read samples from an .npz: an array per input, samples along axis 0, optionally labels in `y`.

    For a model with one input the array may have any name. Raises DataError with what does not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; give an .npz file with one array per input.") from error
    except Exception as error:
        raise DataError(
            f"{path} is not an .npz file of plain arrays; save it with numpy.savez(path, "
            f"{specs[0].name}=array), without object arrays."
        ) from error
    return from_arrays(arrays, specs)


def from_arrays(arrays: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]) -> Samples:
    """Return samples from one array per input, as `read_data` does from a file."""
    named = _by_input(arrays, specs)
    count = _common_length({**named, **({_LABELS: arrays[_LABELS]} if _has_labels(arrays, specs) else {})})
    columns = {spec.name: _column(spec, named[spec.name]) for spec in specs}
    inputs = tuple({name: column[index] for name, column in columns.items()} for index in range(count))
    return Samples(inputs, _labels(arrays[_LABELS]) if _has_labels(arrays, specs) else None)


def generate(
    specs: Sequence[TensorSpec],
    ranges: Mapping[str, Range],
    shapes: Mapping[str, tuple[int, ...]],
    count: int = GENERATED,
) -> Samples:
    """Return samples drawn with a fixed seed; the same arguments give the same bytes.

    Floats lie in 0 to 1, in steps of 1/256 of the range so that they compress; integers in 0 to 255, or the
    datatype's range if that is smaller (INT8: -128 to 127); BOOL is 0 or 1. `ranges` (both ends included) and
    `shapes` say otherwise by input name. In turn a sample is uniform noise, a smooth ramp and a constant
    level, since many models answer all noise alike. Raises DataError for text inputs and unknown names.
    """
    for kind, names in (("range", ranges), ("shape", shapes)):
        if stray := set(names) - {spec.name for spec in specs}:
            known = ", ".join(spec.name for spec in specs)
            raise DataError(f"A {kind} names the input '{sorted(stray)[0]}', but the model has: {known}.")
    random = np.random.default_rng(SEED)
    filled = {spec.name: _filled_shape(spec, shapes.get(spec.name)) for spec in specs}
    bounds = {spec.name: ranges.get(spec.name, _default_range(spec)) for spec in specs}
    return Samples(
        tuple(
            {spec.name: _draw(random, spec, filled[spec.name], bounds[spec.name], index) for spec in specs}
            for index in range(count)
        ),
        generated=True,
    )


def _draw(
    random: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], bounds: Range, index: int
) -> NDArray[Any]:
    size = int(np.prod(shape))
    level = random.random()
    match index % 3:
        case 0:
            unit = random.random(size)
        case 1:
            unit = (level + np.arange(size) / max(size, 1)) % 1.0
        case _:
            unit = np.full(size, level)
    low, high = bounds
    dtype = np.dtype(NUMPY_NAME[spec.datatype])
    if dtype.kind == "f":
        values = low + np.floor(unit * _FLOAT_STEPS) / _FLOAT_STEPS * (high - low)
    else:
        values = np.minimum(np.floor(low + unit * (high - low + 1)), high)
    drawn: NDArray[Any] = values.astype(dtype).reshape(shape)
    return drawn


def _default_range(spec: TensorSpec) -> Range:
    dtype = np.dtype(NUMPY_NAME[spec.datatype])
    if dtype.kind == "f" or spec.datatype == "BOOL":
        return (0.0, 1.0)
    if dtype.kind not in "iu":
        raise DataError(f"Input '{spec.name}' takes text, for which no samples can be generated or read.")
    info = np.iinfo(dtype)
    return (float(info.min), float(info.max)) if info.bits == 8 else (0.0, 255.0)


def _filled_shape(spec: TensorSpec, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    if wanted is not None:
        if not spec.accepts(wanted) or min(wanted, default=1) < 1:
            raise DataError(
                f"Input '{spec.name}' has shape {_shape(spec.shape)}, which {_shape(wanted)} does not fit."
            )
        return wanted
    return tuple(
        size if size != -1 else (1 if axis == 0 else FREE_DIMENSION) for axis, size in enumerate(spec.shape)
    )


def _by_input(arrays: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    names = [spec.name for spec in specs]
    given = [name for name in arrays if name in names or name != _LABELS]
    if len(names) == 1 and names[0] not in given and len(given) == 1:
        return {names[0]: arrays[given[0]]}
    if len(names) == 1 and names[0] not in given and _ANY_INPUT in given:
        return {names[0]: arrays[_ANY_INPUT]}
    wanted = ", ".join(f"'{name}'" for name in names)
    if absent := [name for name in names if name not in given]:
        held = ", ".join(f"'{name}'" for name in arrays) or "nothing"
        raise DataError(
            f"The data has no array for input '{absent[0]}': the model takes {wanted}, it has {held}."
        )
    if stray := [name for name in given if name not in names]:
        raise DataError(f"The data has an array '{stray[0]}', which is no input: the model takes {wanted}.")
    return {name: arrays[name] for name in names}


def _has_labels(arrays: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]) -> bool:
    return _LABELS in arrays and _LABELS not in {spec.name for spec in specs} and len(arrays) > 1


def _common_length(arrays: Mapping[str, NDArray[Any]]) -> int:
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if min(lengths.values()) == 0:
        empty = next(name for name, length in lengths.items() if not length)
        raise DataError(f"The array '{empty}' holds no samples; they go along its first axis.")
    if len(set(lengths.values())) != 1:
        counts = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
        raise DataError(f"The arrays hold different numbers of samples: {counts}; give as many of each.")
    return next(iter(lengths.values()))


def _column(spec: TensorSpec, array: NDArray[Any]) -> list[NDArray[Any]]:
    typed = _typed(spec, array)
    if spec.accepts(typed.shape[1:]):
        return [np.array(row, order="C") for row in typed]
    if spec.accepts((1, *typed.shape[1:])):
        return [np.ascontiguousarray(typed[index : index + 1]) for index in range(len(typed))]
    without = spec.shape[1:] if spec.shape[:1] in ((1,), (-1,)) else spec.shape
    raise DataError(
        f"Input '{spec.name}' has shape {_shape(spec.shape)}, so its array should be "
        f"{_shape(('samples', *without))}; the data has {_shape(array.shape)}."
    )


def _typed(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    dtype = np.dtype(NUMPY_NAME[spec.datatype])
    if dtype.kind == "O":
        raise DataError(f"Input '{spec.name}' takes text, for which no samples can be generated or read.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            f"The array for input '{spec.name}' holds NaN or infinite values; remove those samples."
        )
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "f" and dtype.kind == "f":
        return array.astype(dtype)
    if array.dtype.kind in "iu" and dtype.kind in "iu":
        info = np.iinfo(dtype)
        if array.size == 0 or (array.min() >= info.min and array.max() <= info.max):
            return array.astype(dtype)
        raise DataError(
            f"The array for input '{spec.name}' has values from {array.min()} to {array.max()}, which {dtype} "
            "cannot hold."
        )
    raise DataError(
        f"Input '{spec.name}' takes {dtype}, the data has {array.dtype}; prepare it as the model was trained, "
        f"with array.astype('{dtype}') at the end."
    )


def _labels(array: NDArray[Any]) -> NDArray[np.int64]:
    flat = array.reshape(len(array), -1)
    if array.dtype.kind not in "iu" or flat.shape[1] != 1:
        raise DataError("The labels 'y' should be one class number (an integer) per sample.")
    return flat[:, 0].astype(np.int64)


def _shape(shape: Sequence[int | str]) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"
