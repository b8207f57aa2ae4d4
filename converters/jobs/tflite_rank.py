"""How much each layer of a TFLite model costs when it alone is quantized. Runs in a worker process."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from converters.arrays import Sample
from converters.jobs.loss import relative_error
from converters.quantize import layers, tflite, tflite_graph
from converters.terms import Advanced
from converters.workers import messages


def losses(
    ask: messages.Rank, samples: Sequence[Sample], few: Sequence[Sample], advanced: Advanced
) -> dict[str, float]:
    """Return the relative squared error of the answers to `few` samples by layer; all samples calibrate."""
    ready = tflite_graph.prepared(Path(ask.source))
    settings = dataclasses.replace(ask.settings, io="float")
    with tempfile.TemporaryDirectory(prefix="rank-") as folder:
        ranges = Path(ask.ranges or Path(folder, "ranges.json"))
        if not ranges.exists():
            tflite.calibrate(ready, samples, settings, ranges)
        wanted = tflite_graph.answers(ready.content, ready, few)
        kept = layers.in_float(ready.operators, settings.exclude)
        everything = frozenset(one.name for one in ready.operators)
        found = {}
        grouped = layers.groups(ready.operators)
        for index, (layer, members) in enumerate(grouped.items()):
            content = tflite.static(
                ready,
                ranges,
                (everything - members) | kept,
                activation_bits=16 if ask.method == "tflite-int16x8" else 8,
                settings=settings,
            )
            found[layer] = relative_error(wanted, tflite_graph.answers(content, ready, few))
            advanced((index + 1) / len(grouped))
    return found
