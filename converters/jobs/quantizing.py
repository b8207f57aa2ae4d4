"""What a worker process is asked to do with a quantizer; the libraries are imported when one is used."""

from pathlib import Path
from typing import Final

import numpy as np

from converters import arrays
from converters.arrays import Sample
from converters.quantize import ranges
from converters.terms import Advanced, unheard
from converters.workers import messages

_RANKING_SAMPLES: Final = 16
"""Enough to order the layers; the search itself evaluates on all samples."""


def quantize(ask: messages.Quantize) -> messages.Done:
    """Make one quantized file; raises ConversionError, ModelError or ToolMissingError."""
    if ask.method.startswith("onnx"):
        _quantize_onnx(ask)
    else:
        _quantize_tflite(ask)
    return messages.Done()


def rank(ask: messages.Rank, advanced: Advanced = unheard) -> messages.Ranked:
    """Quantize one layer at a time and compare the answers with the float model's on some samples."""
    samples = _samples(ask.data)
    few = [samples[index] for index in _spread(len(samples))]
    if ask.method.startswith("onnx"):
        from converters.jobs.onnx_rank import losses
    else:
        from converters.jobs.tflite_rank import losses
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
