"""Samples that are drawn where no data is given."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import shown
from converters.data.casting import check_numeric, is_float, to_float
from converters.data.samples import Samples
from converters.data.settings import GENERATED, Range
from converters.data.splitting import SEED
from converters.errors import DataError
from edge_agent.documents.tensors import NUMPY_NAME, TensorSpec

FREE_DIMENSION: Final = 32
"""Size of a generated sample's free dimensions after the first, which gets 1."""

_FLOAT_STEPS: Final = 256
_LARGEST_BF16: Final = (2 - 2**-7) * 2.0**127


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
    level, since many models answer all noise alike. Raises DataError for text inputs, unknown names, and ranges
    that the datatype does not hold.
    """
    for kind, names in (("range", ranges), ("shape", shapes)):
        if stray := set(names) - {spec.name for spec in specs}:
            known = ", ".join(spec.name for spec in specs)
            raise DataError(f"A {kind} names the input '{sorted(stray)[0]}', but the model has: {known}.")
    random = np.random.default_rng(SEED)
    filled = {spec.name: _filled_shape(spec, shapes.get(spec.name)) for spec in specs}
    bounds = {spec.name: _range(spec, ranges.get(spec.name)) for spec in specs}
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
    if is_float(spec):
        values = low + np.floor(unit * _FLOAT_STEPS) / _FLOAT_STEPS * (high - low)
        return to_float(spec, values).reshape(shape)
    values = np.minimum(np.floor(low + unit * (high - low + 1)), high)
    drawn: NDArray[Any] = values.astype(NUMPY_NAME[spec.datatype]).reshape(shape)
    return drawn


def _range(spec: TensorSpec, wanted: Range | None) -> Range:
    usual = _default_range(spec)
    if wanted is None:
        return usual
    lowest, highest = _limits(spec)
    low, high = wanted
    if not (lowest <= low <= high <= highest and math.isfinite(high - low)):
        raise DataError(
            f"The range {low:g} to {high:g} does not fit the input '{spec.name}'; give two numbers of "
            f"{spec.datatype} from {lowest:g} to {highest:g}, the lower one first."
        )
    return wanted


def _limits(spec: TensorSpec) -> tuple[float, float]:
    """Return the lowest and highest number that an input holds, integers exactly."""
    dtype = np.dtype(NUMPY_NAME[spec.datatype])
    if dtype.kind == "b":
        return (0, 1)
    if is_float(spec):
        largest = _LARGEST_BF16 if spec.datatype == "BF16" else float(np.finfo(dtype).max)
        return (-largest, largest)
    return (np.iinfo(dtype).min, np.iinfo(dtype).max)


def _default_range(spec: TensorSpec) -> Range:
    check_numeric(spec)
    if is_float(spec) or spec.datatype == "BOOL":
        return (0.0, 1.0)
    info = np.iinfo(np.dtype(NUMPY_NAME[spec.datatype]))
    return (float(info.min), float(info.max)) if info.bits == 8 else (0.0, 255.0)


def _filled_shape(spec: TensorSpec, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    if wanted is not None:
        if not spec.accepts(wanted) or min(wanted, default=1) < 1:
            raise DataError(
                f"Input '{spec.name}' has shape {shown(spec.shape)}, which {shown(wanted)} does not fit."
            )
        return wanted
    return tuple(
        size if size != -1 else (1 if axis == 0 else FREE_DIMENSION) for axis, size in enumerate(spec.shape)
    )
