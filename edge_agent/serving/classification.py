"""Outputs as classes: the best values with their index and label.

Source: Triton Inference Server, protocol/extension_classification.md.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import TensorSpec

MAX_CLASSES: Final = 65_536
"""Of all rows of an output: to write one takes some microseconds, in which no other client is answered."""


def classes(
    tensor: NDArray[Any], spec: TensorSpec, count: int, labels: Sequence[str], has_batch: bool
) -> NDArray[Any]:
    """Return the `count` best values of an output, or of each row, as BYTES `value:index:label`, best first.

    With `has_batch` the first dimension is a batch and the result is [batch, k], else [k]; k is at most the
    number of values. Of equal values the first is better, and NaN is the worst. An index without a label has
    none. Raises RequestError for an output of text or booleans, and for more than 65,536 classes of all rows.
    """
    if spec.datatype == "BF16":
        # The upper half of an FP32.
        tensor = (tensor.astype(np.uint32) << 16).view(np.float32)
    if tensor.dtype.kind not in "iuf":
        raise RequestError(f"Output '{spec.name}' has no numbers, so no best classes; ask for it as it is.")
    rows = tensor.reshape(tensor.shape[0], -1) if has_batch and tensor.ndim else tensor.reshape(1, -1)
    count = min(count, rows.shape[1])
    if len(rows) * count > MAX_CLASSES:
        raise RequestError(
            f"Output '{spec.name}' would have {count} classes for each of {len(rows)} rows, and all together "
            f"may have {MAX_CLASSES}; ask for fewer classes or rows, or for the output as it is."
        )
    best = _downwards(rows)[:, :count]
    found = np.empty((len(rows), count), np.object_)
    for row, indexes in enumerate(best):
        found[row] = [_described(rows[row, index], int(index), labels) for index in indexes]
    return found if has_batch and tensor.ndim else found[0]


def _downwards(rows: NDArray[Any]) -> NDArray[Any]:
    """Return the indexes of each row's values from the largest to the smallest."""
    if rows.dtype.kind == "f":
        return np.argsort(-rows, axis=1, kind="stable")
    # Upwards and turned around, as there are whole numbers without a negative one, or that are no FP64.
    return rows.shape[1] - 1 - np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1]


def _described(value: Any, index: int, labels: Sequence[str]) -> bytes:
    number = f"{float(value):f}" if value.dtype.kind == "f" else str(int(value))
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{number}:{index}{label}".encode()
