"""Integers at the ends of a quantized model, where `value = scale * (integer - zero point)`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from converters.arrays import Array, Sample
from converters.formats import tflite_model
from converters.formats.sources import read_source
from converters.quantize import onnx_io
from edge_agent.documents.tensors import TensorSpec

Parameters = Mapping[str, tuple[float, int]]
"""Scale and zero point by input or output name."""

_INTEGERS = {"INT8": np.int8, "UINT8": np.uint8}


def io_parameters(path: Path) -> dict[str, tuple[float, int]]:
    """Return scale and zero point of each quantized input and output; empty for a model with float ends.

    Raises ModelError or NotFoundError.
    """
    source = read_source(path)
    if source.engine == "tflite":
        return tflite_model.io_parameters(source.parsed)
    return onnx_io.io_parameters(source.parsed)


def to_integers(sample: Sample, inputs: tuple[TensorSpec, ...], parameters: Parameters) -> dict[str, Array]:
    """Return a float model's sample as the quantized model's `inputs` take it; what is no float stays."""
    kinds = {spec.name: _INTEGERS[spec.datatype] for spec in inputs if spec.datatype in _INTEGERS}
    return {
        name: _quantized(array, kinds[name], *parameters[name])
        if name in kinds and name in parameters and array.dtype.kind == "f"
        else array
        for name, array in sample.items()
    }


def to_floats(answer: Sample, parameters: Parameters) -> dict[str, Array]:
    """Return a quantized model's answer in the float model's units, FP32."""
    return {
        name: _dequantized(array, *parameters[name]) if name in parameters else array
        for name, array in answer.items()
    }


def _quantized(array: Array, kind: DTypeLike, scale: float, zero: int) -> Array:
    ends = np.iinfo(np.dtype(kind))
    integers = np.rint(array / np.float32(scale)) + zero
    return np.asarray(np.clip(integers, ends.min, ends.max), kind)


def _dequantized(array: Array, scale: float, zero: int) -> Array:
    return np.asarray((array.astype(np.float32) - np.float32(zero)) * np.float32(scale))
