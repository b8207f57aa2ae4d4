"""The seam to onnxruntime.quantization: float16, dynamic, and static QDQ per channel. Runs in a worker process.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html. Dynamic takes MatMul and
Gemm alone: on Conv it made a model three times slower. On x86 unsigned activations with signed weights are
twice as fast as signed ones; on ARM the signed ones are preferred. float16 halves the file; on a CPU ONNX
Runtime computes most of it in float32.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from converters.arrays import Sample
from converters.errors import missing
from converters.formats import onnx_model
from converters.formats.onnx_walk import graphs
from converters.quantize import layers, onnx_graph, onnx_io, onnx_ranges
from converters.quantize.onnx_graph import Prepared, mapping_errors
from converters.quantize.settings import QuantizeSettings
from edge_agent.engines.runtimes import keep_onnxruntime_silent

DYNAMIC_OPERATORS: Final = ("MatMul", "Gemm")

_DEFAULT: Final = QuantizeSettings()


def quantize_half(source: Path, target: Path, settings: QuantizeSettings = _DEFAULT) -> None:
    """Write a copy with float16 weights and float inputs and outputs; excluded layers keep float32."""
    _import()
    from onnxruntime.transformers import float16

    model = onnx_graph.named(source)
    blocked = layers.in_float(onnx_graph.operators(model), settings.exclude)
    with mapping_errors("fp16"):
        halved = float16.convert_float_to_float16(model, keep_io_types=True, node_block_list=sorted(blocked))
        onnx_model.sort_nodes(halved)
        onnx_model.save(halved, target)


def quantize_dynamic(source: Path, target: Path, settings: QuantizeSettings = _DEFAULT) -> None:
    """Write a copy with int8 weights; activations are quantized while it runs."""
    quantization = _import()
    with onnx_graph.prepared(source) as ready, mapping_errors("dynamic"):
        excluded = onnx_graph.in_float(ready, settings.exclude)
        # It first turns each Gemm into a MatMul of this name and an Add.
        excluded += [f"{name}_MatMul" for name in excluded]
        quantization.quantize_dynamic(
            str(ready.path),
            str(target),
            op_types_to_quantize=list(DYNAMIC_OPERATORS),
            per_channel=settings.per_channel,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=excluded,
        )
        _tidy_branches(target)


def quantize_static(
    source: Path,
    target: Path,
    samples: Sequence[Sample],
    *,
    signed_activations: bool,
    settings: QuantizeSettings = _DEFAULT,
    ranges: Path | None = None,
) -> None:
    """Write a copy with int8 weights and int8 activations in the ranges that the samples show.

    `ranges` is a file that keeps what calibration found: read if it exists, else written.
    """
    with onnx_graph.prepared(source) as ready, tempfile.TemporaryDirectory(prefix="ranges-") as folder:
        found = ranges or Path(folder, "ranges.json")
        if not found.exists():
            onnx_ranges.calibrate(ready, samples, settings, found)
        excluded = onnx_graph.in_float(ready, settings.exclude)
        write_static(ready, target, found, excluded, signed_activations=signed_activations, settings=settings)
        if settings.io != "float":
            with mapping_errors("int8"):
                model = onnx_model.read(target)
                onnx_io.to_integers(model, onnx_ranges.kept(found), signed=signed_activations)
                onnx_model.save(model, target)


def write_static(
    ready: Prepared,
    target: Path,
    ranges: Path,
    excluded: Sequence[str],
    *,
    signed_activations: bool,
    settings: QuantizeSettings,
) -> None:
    """Write a static copy of a prepared model with float inputs and outputs."""
    quantization = _import()
    types = quantization.QuantType
    with mapping_errors("int8"):
        quantization.quantize_static(
            str(ready.path),
            str(target),
            None,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_operators(),
            nodes_to_exclude=sorted({*excluded, *onnx_ranges.without_range(ready, ranges)}),
            per_channel=settings.per_channel,
            activation_type=types.QInt8 if signed_activations else types.QUInt8,
            weight_type=types.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            calibration_cache_path=str(ranges),
        )
        _tidy_branches(target)


def _tidy_branches(target: Path) -> None:
    """Put right what onnxruntime's quantizers do around the branches of an If.

    They sort nodes without what branches read, and fold what several branches use into each of them.
    """
    import onnx

    model = onnx.load(str(target))
    if len(list(graphs(model.graph))) > 1:
        onnx_model.share_constants(model)
        onnx_model.sort_nodes(model)
        onnx_model.save(model, target)


def _operators() -> list[str]:
    """Return what the quantizer takes by default, which it keeps in sets, in an order that never changes."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def _import() -> Any:
    keep_onnxruntime_silent()
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise missing("onnxruntime") from error
    return quantization
