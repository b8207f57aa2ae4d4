"""What the labels say: class numbers, class names or values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Array
from converters.data.samples import Targets
from converters.errors import DataError

_NAMED_AT_MOST: Final = 5


@dataclass(frozen=True, slots=True)
class Labels:
    """Targets, and the names of the classes where the labels are names."""

    targets: Targets | None = None
    class_names: tuple[str, ...] = ()


def read_labels(array: Array, name: str) -> Labels:
    """Read class numbers (integers or booleans, [n] or [n, 1]), names (text, [n]) or values (floats, [n, ...]).

    Names are numbered in their sorted order. Raises DataError for anything else, and for NaN.
    """
    if array.dtype.kind in "OUS":
        return _from_names(array, name)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise DataError(f"The labels '{name}' hold NaN or infinite values; remove those samples.")
        return Labels(array.astype(np.float64))
    if array.dtype.kind not in "iub" or array.size != len(array):
        raise DataError(
            f"The labels '{name}' should be one class number (an integer) per sample, or floats to predict; "
            "turn one-hot rows into numbers with array.argmax(axis=1)."
        )
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"The labels '{name}' go up to {array.max()}; number the classes from 0.")
    return Labels(array.reshape(-1).astype(np.int64))


def renumbered(labels: Labels, class_names: Sequence[str]) -> Labels:
    """Return labels numbered by other class names, as those of a separate evaluation set must be.

    Raises DataError for a class that the other names lack.
    """
    if labels.targets is None or not labels.class_names or tuple(class_names) == labels.class_names:
        return labels
    for name in labels.class_names:
        if name not in class_names:
            raise DataError(
                f"The evaluation data has the class '{name}', which the other data lacks; name them alike."
            )
    numbers = np.array([class_names.index(name) for name in labels.class_names], np.int64)
    return Labels(numbers[labels.targets], tuple(class_names))


def notes(classes: NDArray[np.int64], class_names: Sequence[str] = ()) -> list[str]:
    """Say which classes there is little to know of: those with one sample, and numbers that are skipped."""
    numbers, counts = np.unique(classes, return_counts=True)
    single = [int(number) for number in numbers[counts == 1]]
    last = max(int(numbers[-1]) + 1, len(class_names)) if numbers.size else 0
    absent = sorted(set(range(last)) - {int(number) for number in numbers})
    found = []
    if single:
        found.append(f"There is a single sample of {_named(single, class_names)}; give more of each class.")
    if absent:
        found.append(f"There is no sample of {_named(absent, class_names)}, so nothing is known of it.")
    return found


def _named(classes: Sequence[int], class_names: Sequence[str]) -> str:
    shown = [f"'{class_names[one]}'" if one < len(class_names) else str(one) for one in classes]
    more = len(shown) - _NAMED_AT_MOST
    what = "class" if len(shown) == 1 else "classes"
    return f"{what} {', '.join(shown[:_NAMED_AT_MOST])}" + (f" and {more} more" if more > 0 else "")


def _from_names(array: Array, name: str) -> Labels:
    if array.ndim != 1 or not all(isinstance(item, (str, bytes)) for item in array.tolist()):
        raise DataError(f"The labels '{name}' should be one class name or number per sample.")
    texts = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in array.tolist()]
    names = tuple(sorted(set(texts)))
    if "" in names:
        raise DataError(f"The labels '{name}' have an empty name; give each sample a class.")
    number = {text: index for index, text in enumerate(names)}
    return Labels(np.array([number[text] for text in texts], np.int64), names)
