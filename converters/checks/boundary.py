"""Between floats and the 8 or 16 bits that a quantized model takes and gives. Pure.

q = saturate(round(x / scale) + zero_point), half to even, in float32, and x = (q - zero_point) * scale. Source:
https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html; TFLite has the same formula.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Array, Sample
from edge_agent.documents.tensors import NUMPY_NAME, Datatype


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a tensor's integers stand for floats, the same for all its values."""

    scale: float
    zero_point: int
    datatype: Datatype
    """INT8, UINT8, INT16 or UINT16."""


def quantized(sample: Sample, parameters: Mapping[str, Quantization]) -> dict[str, Array]:
    """Return the sample with the named tensors as integers; the others stay as they are."""
    return {name: _to_integers(array, parameters.get(name)) for name, array in sample.items()}


def dequantized(answer: Sample, parameters: Mapping[str, Quantization]) -> dict[str, Array]:
    """Return the answer with the named tensors as float32; the others stay as they are."""
    return {name: _to_floats(array, parameters.get(name)) for name, array in answer.items()}


def _to_integers(array: Array, how: Quantization | None) -> Array:
    if how is None:
        return array
    dtype = np.dtype(NUMPY_NAME[how.datatype])
    info = np.iinfo(dtype)
    steps = np.rint(np.asarray(array, np.float32) / np.float32(how.scale))
    # In float64, since float32 would round large numbers of steps when the zero point is added.
    integers: Array = np.clip(steps.astype(np.float64) + how.zero_point, info.min, info.max).astype(dtype)
    return integers


def _to_floats(array: Array, how: Quantization | None) -> Array:
    if how is None:
        return array
    steps = array.astype(np.int32) - np.int32(how.zero_point)
    floats: NDArray[np.float32] = steps.astype(np.float32) * np.float32(how.scale)
    return floats
