"""How much each layer of an ONNX model costs when it alone is quantized. Runs in a worker process."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from converters.arrays import Sample
from converters.jobs.loss import relative_error
from converters.quantize import layers, onnx, onnx_graph, onnx_ranges
from converters.quantize.onnx_graph import mapping_errors
from converters.terms import Advanced
from converters.workers import messages


def losses(
    ask: messages.Rank, samples: Sequence[Sample], few: Sequence[Sample], advanced: Advanced
) -> dict[str, float]:
    """Return the relative squared error of the answers to `few` samples by layer; all samples calibrate."""
    with (
        onnx_graph.prepared(Path(ask.source)) as ready,
        tempfile.TemporaryDirectory(prefix="rank-") as folder,
    ):
        ranges, target = Path(ask.ranges or Path(folder, "ranges.json")), Path(folder, "one.onnx")
        if not ranges.exists():
            onnx_ranges.calibrate(ready, samples, ask.settings, ranges)
        wanted = _answers(ready.path, few)
        kept = set(onnx_graph.in_float(ready, ask.settings.exclude))
        nodes = {node.name for node in ready.model.graph.node}
        found = {}
        grouped = layers.groups(ready.operators)
        for index, (layer, members) in enumerate(grouped.items()):
            others = nodes - set(ready.named(members)) | kept
            signed = ask.method == "onnx-int8-s8s8"
            onnx.write_static(
                ready, target, ranges, sorted(others), signed_activations=signed, settings=ask.settings
            )
            found[layer] = relative_error(wanted, _answers(target, few))
            advanced((index + 1) / len(grouped))
    return found


def _answers(path: Path, samples: Sequence[Sample]) -> list[Sample]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with mapping_errors("int8"):
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        return [
            dict(zip(names, map(np.asarray, session.run(names, dict(sample))), strict=True))
            for sample in samples
        ]
