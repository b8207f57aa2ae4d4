"""What a worker process is asked to do with a quantizer; the libraries are imported when one is used."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from converters import arrays
from converters.arrays import Sample
from converters.quantize import ranges
from converters.workers import messages

_RANKING_SAMPLES: Final = 16
"""Enough to order the layers; the search itself evaluates on all samples."""
_WORST: Final = 1e9
"""Loss of a layer that makes the answers NaN; JSON has no infinity."""


def quantize(ask: messages.Quantize) -> messages.Done:
    """Make one quantized file; raises ConversionError, ModelError or ToolMissingError."""
    if ask.method.startswith("onnx"):
        _quantize_onnx(ask)
    else:
        _quantize_tflite(ask)
    return messages.Done()


def rank(ask: messages.Rank, advanced: Callable[[float], None] = lambda share: None) -> messages.Ranked:
    """Quantize one layer at a time and compare the answers with the float model's on some samples."""
    samples = _samples(ask.data)
    few = [samples[index] for index in _spread(len(samples))]
    if ask.method.startswith("onnx"):
        from converters.quantize.onnx_rank import losses
    else:
        from converters.quantize.tflite_rank import losses
    return messages.Ranked(losses=losses(ask, samples, few, advanced))


def observe(ask: messages.Observe) -> messages.Observed:
    """Return the ends of the model and the activations that are hardest to quantize."""
    source, samples = Path(ask.source), _samples(ask.data)
    if ask.engine == "onnx":
        from converters.quantize import onnx_graph, onnx_ranges

        with onnx_graph.prepared(source) as ready:
            ends = [value.name for value in (*ready.model.graph.input, *ready.model.graph.output)]
            found = ranges.observe(onnx_ranges.activations(ready, samples))
    else:
        from converters.quantize import tflite_graph

        prepared = tflite_graph.prepared(source)
        ends = [*prepared.arguments, *prepared.outputs]
        found = ranges.observe(tflite_graph.activations(prepared, samples))
    names = ranges.telling(found, ends, ask.tensors)
    return messages.Observed(tensors=tuple(ranges.shown(name, found[name], ask.settings) for name in names))


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


def _quantize_onnx(ask: messages.Quantize) -> None:
    from converters.quantize import onnx

    source, target, settings = Path(ask.source), Path(ask.target), ask.settings
    match ask.method:
        case "onnx-fp16":
            onnx.quantize_half(source, target, settings)
        case "onnx-dynamic":
            onnx.quantize_dynamic(source, target, settings)
        case _:
            onnx.quantize_static(
                source,
                target,
                _samples(ask.data),
                signed_activations=ask.method == "onnx-int8-s8s8",
                settings=settings,
                ranges=_optional(ask.ranges),
            )


def _quantize_tflite(ask: messages.Quantize) -> None:
    from converters.quantize import tflite

    source, target, settings = Path(ask.source), Path(ask.target), ask.settings
    match ask.method:
        case "tflite-fp16":
            tflite.quantize_half(source, target, settings)
        case "tflite-dynamic" | "tflite-dynamic-tensorwise":
            whole = ask.method == "tflite-dynamic-tensorwise"
            tflite.quantize_dynamic(source, target, settings, dense_per_tensor=whole)
        case _:
            tflite.quantize_static(
                source,
                target,
                _samples(ask.data),
                activation_bits=16 if ask.method == "tflite-int16x8" else 8,
                settings=settings,
                ranges=_optional(ask.ranges),
            )


def _samples(data: str) -> list[Sample]:
    return list(arrays.read_all_inputs(Path(data)))


def _optional(path: str) -> Path | None:
    return Path(path) if path else None


def _spread(count: int) -> list[int]:
    return sorted({int(index) for index in np.linspace(0, count - 1, min(count, _RANKING_SAMPLES))})
