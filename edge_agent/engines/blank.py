"""A first run without golden samples: zeros go in, and what comes out must be numbers of the right shape."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import GoldenError
from edge_agent.documents.tensors import NUMPY_NAME, TensorSpec


def zeros(specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    """Return a tensor of zeros, or of empty strings, for each input; free dimensions are 1."""
    return {spec.name: _zeros(spec) for spec in specs}


def check_outputs(got: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]) -> None:
    """Raise GoldenError unless each output is there, has the shape that it should, and is finite."""
    for spec in specs:
        if spec.name not in got:
            raise GoldenError(f"The model gave no output '{spec.name}'.")
        actual = got[spec.name]
        if not spec.accepts(actual.shape):
            raise GoldenError(
                f"For an input of zeros, output '{spec.name}' has shape {list(actual.shape)}, not "
                f"{list(spec.shape)}."
            )
        if actual.dtype.kind == "f" and not np.isfinite(actual).all():
            raise GoldenError(
                f"For an input of zeros, output '{spec.name}' is not finite; package the version with golden "
                "samples if it should be so."
            )


def _zeros(spec: TensorSpec) -> NDArray[Any]:
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    if spec.datatype == "BYTES":
        return np.full(shape, b"", np.object_)
    return np.zeros(shape, np.dtype(NUMPY_NAME[spec.datatype]))
