"""An array as the datatype that a model takes, without changing what it says."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError
from edge_agent.documents.tensors import NUMPY_NAME, TensorSpec


def cast(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """Return the array in the input's datatype: floats to floats, integers to integers that hold them.

    BF16 takes floats, or its bits as uint16. Raises DataError for NaN and infinity, for values out of range,
    for text and for any other change of kind.
    """
    dtype = np.dtype(NUMPY_NAME[spec.datatype])
    check_numeric(spec)
    check_finite(spec.name, array)
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "f" and is_float(spec):
        return to_float(spec, array)
    if array.dtype.kind in "iu" and dtype.kind in "iu" and not is_float(spec):
        info = np.iinfo(dtype)
        if array.size == 0 or (array.min() >= info.min and array.max() <= info.max):
            return array.astype(dtype)
        raise DataError(
            f"The array for input '{spec.name}' has values from {array.min()} to {array.max()}, which {dtype} "
            "cannot hold."
        )
    wanted = "float32" if is_float(spec) and dtype.kind != "f" else dtype
    raise DataError(
        f"Input '{spec.name}' takes {wanted}, the data has {array.dtype}; prepare it as the model was trained, "
        f"with array.astype('{wanted}') at the end."
    )


def is_float(spec: TensorSpec) -> bool:
    """Say whether an input takes floats; numpy has those of BF16 as their bits."""
    return spec.datatype == "BF16" or np.dtype(NUMPY_NAME[spec.datatype]).kind == "f"


def to_float(spec: TensorSpec, values: NDArray[Any]) -> NDArray[Any]:
    """Return floats in the datatype of an input that takes such; for BF16 the bits, rounded to nearest even."""
    if spec.datatype != "BF16":
        return values.astype(NUMPY_NAME[spec.datatype])
    bits = values.astype(np.float32, order="C").view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def check_numeric(spec: TensorSpec) -> None:
    """Raise DataError for an input that takes text."""
    if spec.datatype == "BYTES":
        raise DataError(f"Input '{spec.name}' takes text, for which no samples can be generated or read.")


def check_finite(name: str, array: NDArray[Any]) -> None:
    """Raise DataError when an array of floats holds NaN or infinity."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"The array for input '{name}' holds NaN or infinite values; remove those samples.")


def scaled(spec: TensorSpec, values: NDArray[Any], scale: float | None, usual: float) -> NDArray[Any]:
    """Return pixels or audio samples as an input takes them.

    Floats are multiplied by `scale`, or else by `usual`; integers by `scale` alone, and rounded. Raises
    DataError where the input's integers do not hold them.
    """
    if is_float(spec):
        factor = np.float32(usual if scale is None else scale)
        return to_float(spec, values.astype(np.float32) * factor)
    return cast(spec, np.rint(values * (1.0 if scale is None else scale)).astype(np.int64))
