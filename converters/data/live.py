"""Data that a program gives: arrays, pairs of arrays and targets, or a function that returns either."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Array
from converters.errors import DataError, said

ONE_INPUT: Final = "x"
"""What the array of the only input is called where it comes without a name."""

LiveData = Mapping[str, Any] | tuple[Any, Any] | Callable[[], Any] | Any
"""Arrays by input name, the labels among them; `(X, y)`, where X may be such a mapping and y None; one array;
or a function that returns one of these. An array may be a list, or whatever numpy turns into an array."""


@dataclass(frozen=True, slots=True)
class Given:
    """Arrays by input name, and the labels beside them where those came apart."""

    arrays: Mapping[str, Array]
    labels: Array | None = None

    @property
    def sha256(self) -> str:
        """The digest of names, datatypes, shapes and values."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            _update(digest, name, array)
        if self.labels is not None:
            _update(digest, "", self.labels)
        return digest.hexdigest()


def read_live(live: LiveData) -> Given:
    """Return the arrays; raises DataError for what is none, and when the function fails."""
    if callable(live) and not hasattr(live, "__array__"):
        live = _called(live)
    if isinstance(live, tuple):
        if len(live) != 2:
            raise DataError(f"The data is a tuple of {len(live)}; give a pair of inputs and labels, (X, y).")
        inputs, labels = live
        return Given(_arrays(inputs), None if labels is None else _array("labels", labels))
    return Given(_arrays(live))


def _called(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:
        name = getattr(function, "__name__", "The function")
        raise DataError(f"{name} that should return the data failed: {said(error)}.") from error


def _arrays(inputs: Any) -> dict[str, Array]:
    if isinstance(inputs, Mapping):
        return {str(name): _array(str(name), value) for name, value in inputs.items()}
    return {ONE_INPUT: _array(ONE_INPUT, inputs)}


def _array(name: str, value: Any) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except Exception as error:
        raise DataError(f"The data '{name}' cannot be made an array ({said(error)}).") from error
    if array.dtype.kind == "O" and not all(isinstance(item, (str, bytes)) for item in array.flat):
        raise DataError(
            f"The data '{name}' is not an array of numbers; give a numpy array, a list of equally long rows, "
            "or a function that returns one."
        )
    return array


def _update(digest: "hashlib._Hash", name: str, array: Array) -> None:
    plain = array.astype("U") if array.dtype.kind == "O" else array
    digest.update(f"{name}\0{plain.dtype.str}\0{plain.shape}\0".encode())
    digest.update(plain.tobytes())
