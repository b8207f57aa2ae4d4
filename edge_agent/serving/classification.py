"""Outputs as classes: the best values with their index and label.

Source: Triton Inference Server, protocol/extension_classification.md.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import RequestError


def classes(
    tensor: NDArray[Any], name: str, count: int, labels: Sequence[str], has_batch: bool
) -> NDArray[Any]:
    """Return the `count` best values of an output, or of each row, as BYTES `value:index:label`, best first.

    With `has_batch` the first dimension is a batch and the result is [batch, k], else [k]; k is at most the
    number of values. An index without a label has none. Raises RequestError for an output of text or booleans.
    """
    if tensor.dtype.kind not in "iuf":
        raise RequestError(f"Output '{name}' has no numbers, so no best classes; ask for it as it is.")
    rows = tensor.reshape(tensor.shape[0], -1) if has_batch and tensor.ndim else tensor.reshape(1, -1)
    count = min(count, rows.shape[1])
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    found = np.empty((len(rows), count), np.object_)
    for row, indexes in enumerate(best):
        found[row] = [_described(rows[row, index], int(index), labels) for index in indexes]
    return found if has_batch and tensor.ndim else found[0]


def _described(value: Any, index: int, labels: Sequence[str]) -> bytes:
    number = f"{float(value):f}" if value.dtype.kind == "f" else str(int(value))
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{number}:{index}{label}".encode()
