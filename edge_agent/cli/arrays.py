"""Tensors on the command line: values as an input takes them, and outputs told to a person."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import DATATYPE_OF_NUMPY, NUMPY_NAME, TensorSpec

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Score:
    """One class of an answer."""

    index: int
    label: str | None
    score: float


_MAX_ROWS: Final = 8


def fitted(value: Any, spec: TensorSpec) -> Array:
    """Return a value as the tensor that an input takes; raises RequestError where that would change it."""
    if spec.datatype == "BYTES":
        return _bytes_tensor(value, spec)
    if isinstance(value, np.ndarray) and value.dtype == NUMPY_NAME[spec.datatype]:
        return _shaped(value, spec)
    try:
        array = np.asarray(value)
        with np.errstate(invalid="ignore", over="ignore"):
            tensor = array.astype(NUMPY_NAME[spec.datatype], casting="unsafe")
    except (ValueError, TypeError, OverflowError) as error:
        raise RequestError(
            f"The values for input '{spec.name}' are no {spec.datatype} tensor: {error}."
        ) from error
    if array.dtype.kind not in "biuf" or not _holds(array, tensor):
        raise RequestError(
            f"Input '{spec.name}' takes {spec.datatype}, which cannot hold the given {array.dtype} values."
        )
    return _shaped(tensor, spec)


def output_lines(name: str, array: Array) -> Iterator[str]:
    """Yield what an output is, and its values, shortened."""
    datatype = DATATYPE_OF_NUMPY.get(array.dtype.name, array.dtype.name)
    yield f"{name}  {datatype} {list(array.shape)}"
    with np.printoptions(threshold=40, edgeitems=4, precision=5, suppress=True, linewidth=100):
        yield from (f"  {line}" for line in np.array2string(array).splitlines())


def best(array: Array, count: int, labels: Sequence[str]) -> list[list[Score]]:
    """Return, for each row of the last dimension, its largest values, largest first; eight rows at most."""
    rows = array.reshape(-1, array.shape[-1])[:_MAX_ROWS].astype(np.float64)
    return [
        [
            Score(int(index), labels[index] if index < len(labels) else None, float(row[index]))
            for index in np.argsort(-row, kind="stable")[:count]
        ]
        for row in rows
    ]


def as_json(name: str, array: Array) -> dict[str, Any]:
    """Return an output as the protocol's JSON has it; NaN and infinity, which JSON lacks, as null."""
    flat = array.reshape(-1)
    data: list[Any]
    if array.dtype.kind == "O":
        data = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in flat]
    elif array.dtype.kind == "f":
        data = [float(item) if np.isfinite(item) else None for item in flat]
    else:
        data = flat.tolist()
    datatype = DATATYPE_OF_NUMPY.get(array.dtype.name, array.dtype.name)
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}


def _holds(array: Array, tensor: Array) -> bool:
    """Say whether a tensor has the values of an array: all of them, or as floats without becoming infinite."""
    if tensor.dtype.kind == "f":
        return bool((np.isfinite(tensor) == np.isfinite(array)).all())
    return np.array_equal(array, tensor)


def _bytes_tensor(value: Any, spec: TensorSpec) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "US" and not all(isinstance(item, bytes | str) for item in array.flat):
        raise RequestError(f"Input '{spec.name}' takes text (BYTES), not {array.dtype} values.")
    flat = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1).tolist()]
    tensor = np.empty(len(flat), dtype=object)
    tensor[:] = flat
    return _shaped(tensor.reshape(array.shape), spec)


def _shaped(tensor: Array, spec: TensorSpec) -> Array:
    """Return the tensor in a shape that the input accepts; one sample may come without its batch dimension."""
    if spec.accepts(tensor.shape):
        return tensor
    if spec.accepts((1, *tensor.shape)):
        return tensor[np.newaxis]
    raise RequestError(
        f"Input '{spec.name}' takes the shape {list(spec.shape)} (-1 is free), not {list(tensor.shape)}."
    )
