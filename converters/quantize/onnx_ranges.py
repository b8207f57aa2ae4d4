"""The ranges of an ONNX model's activations over calibration samples. Runs in a worker process."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.arrays import Array, Sample
from converters.quantize import ranges
from converters.quantize.onnx_graph import Prepared, mapping_errors
from converters.quantize.ranges import Activations
from converters.quantize.settings import QuantizeSettings


def activations(ready: Prepared, samples: Sequence[Sample]) -> Activations:
    """Return what runs the prepared model on the samples and yields every float tensor between its nodes.

    One sample's activations are in memory at a time.
    """
    import onnx
    import onnxruntime

    model = onnx.ModelProto()
    model.CopyFrom(ready.model)
    names = _expose_floats(model)
    options = onnxruntime.SessionOptions()
    # Optimizers would fuse what is looked at.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    with mapping_errors("int8"):
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    fed = [name for name in names if name in {value.name for value in model.graph.input}]
    asked = [name for name in names if name not in fed]

    def run() -> Iterable[dict[str, Array]]:
        for sample in samples:
            with mapping_errors("int8"):
                answers = session.run(asked, dict(sample)) if asked else []
            yield {name: np.asarray(sample[name]) for name in fed} | dict(zip(asked, answers, strict=True))

    return run


def calibrate(ready: Prepared, samples: Sequence[Sample], settings: QuantizeSettings, target: Path) -> None:
    """Write the ranges in the form that onnxruntime's `calibration_cache_path` reads."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData, save_tensors_data

    run = activations(ready, samples)
    histograms = ranges.observe(run, with_counts=settings.calibration != "minmax")
    found = {}
    for name, histogram in histograms.items():
        low, high = ranges.chosen(histogram, settings)
        found[name] = (np.float32(low), np.float32(high))
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, found), target)


def without_range(ready: Prepared, target: Path) -> list[str]:
    """Return the nodes that touch a float tensor without a range (infinite values), which stay in float."""
    from onnxruntime.quantization.calibrate import load_tensors_data

    known = set(load_tensors_data(target).keys())
    lost = set(_float_values(ready.model)) - known | set(_infinite(ready.model))
    return [node.name for node in ready.model.graph.node if lost & {*node.input, *node.output}]


def _expose_floats(model: Any) -> list[str]:
    """Make every float tensor an output and return their names."""
    values = _float_values(model)
    outputs = {value.name for value in model.graph.output}
    inputs = {value.name for value in model.graph.input}
    for name, value in values.items():
        if name not in outputs | inputs:
            model.graph.output.append(value)
    return list(values)


def _float_values(model: Any) -> dict[str, Any]:
    """Return the float tensors that nodes read or write and whose type is known, in the graph's order."""
    from onnx import TensorProto

    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    typed = {value.name: value for value in (*graph.value_info, *graph.output, *graph.input)}
    used = dict.fromkeys(name for node in graph.node for name in (*node.input, *node.output))
    return {
        name: typed[name]
        for name in used
        if name in typed
        and name not in constants
        and typed[name].type.tensor_type.elem_type == TensorProto.FLOAT
    }


def _infinite(model: Any) -> Iterator[str]:
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and not np.isfinite(numpy_helper.to_array(tensor)).all():
            yield tensor.name
