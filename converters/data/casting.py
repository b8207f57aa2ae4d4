"""An array as the datatype that a model takes, without changing what it says."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError
from edge_agent.documents.tensors import NUMPY_NAME, TensorSpec


def cast(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """Return the array in the input's datatype: floats to floats, integers to integers that hold them.

    Raises DataError for NaN and infinity, for values out of range, for text and for any other change of kind.
    """
    dtype = np.dtype(NUMPY_NAME[spec.datatype])
    check_numeric(spec)
    check_finite(spec.name, array)
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
    dtype = np.dtype(NUMPY_NAME[spec.datatype])
    if dtype.kind == "f":
        factor = np.float32(usual if scale is None else scale)
        return (values.astype(np.float32) * factor).astype(dtype)
    return cast(spec, np.rint(values * (1.0 if scale is None else scale)).astype(np.int64))
