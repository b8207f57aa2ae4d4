"""How far the answers of a model are off when a layer of it is quantized. Pure."""

import math
import sys
from collections.abc import Sequence
from typing import Final

import numpy as np

from converters.arrays import Sample

_WORST: Final = 1e9
"""Loss of a layer that makes the answers NaN; JSON has no infinity."""


def relative_error(wanted: Sequence[Sample], given: Sequence[Sample]) -> float:
    """Return the squared error as a share of the variance, of the output where that is largest."""
    losses = [0.0]
    for name, first in wanted[0].items():
        if first.dtype.kind != "f":
            continue
        true = np.concatenate([np.asarray(one[name], np.float64).ravel() for one in wanted])
        other = np.concatenate([np.asarray(one[name], np.float64).ravel() for one in given])
        spread = float(((true - true.mean()) ** 2).sum())
        losses.append(float(((true - other) ** 2).sum()) / max(spread, sys.float_info.min))
    return max(one if math.isfinite(one) else _WORST for one in losses)
