"""The seam to onnxruntime.quantization: dynamic, and static QDQ per channel. Runs in a worker process.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html. Dynamic takes MatMul and
Gemm alone: on Conv it made a model three times slower. On x86 unsigned activations with signed weights are
twice as fast as signed ones; on ARM the signed ones are preferred.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from converters.arrays import Sample
from converters.errors import ConversionError, missing
from converters.formats import onnx_model
from edge_agent.engines.runtimes import keep_onnxruntime_silent

DYNAMIC_OPERATORS: Final = ("MatMul", "Gemm")


def quantize_dynamic(source: Path, target: Path) -> None:
    """Write a copy with int8 weights; activations are quantized while it runs."""
    quantization = _import()
    prepared = _prepared(source, target)
    with _mapping_errors("dynamic"):
        quantization.quantize_dynamic(
            str(prepared),
            str(target),
            op_types_to_quantize=list(DYNAMIC_OPERATORS),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )


def quantize_static(source: Path, target: Path, samples: list[Sample], *, signed_activations: bool) -> None:
    """Write a copy with int8 weights per channel and int8 activations in the ranges that the samples show."""
    quantization = _import()
    prepared = _prepared(source, target)
    types = quantization.QuantType
    with _mapping_errors("int8"):
        quantization.quantize_static(
            str(prepared),
            str(target),
            _reader(quantization, samples),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=types.QInt8 if signed_activations else types.QUInt8,
            weight_type=types.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            # Not with CalibMaxIntermediateOutputs: it throws away what was collected before (onnxruntime 1.32).
        )


def _prepared(source: Path, target: Path) -> Path:
    """Write the model at a fit opset, with shapes inferred and BatchNorm folded, beside the target."""
    keep_onnxruntime_silent()
    from onnxruntime.quantization.shape_inference import quant_pre_process

    upgraded = target.with_suffix(".upgraded.onnx")
    onnx_model.save(onnx_model.upgraded(onnx_model.read(source)), upgraded)
    prepared = target.with_suffix(".prepared.onnx")
    with _mapping_errors("quantized"):
        # Symbolic shape inference would need sympy, and adds nothing that the quantizer uses here.
        quant_pre_process(str(upgraded), str(prepared), skip_symbolic_shape=True)
        model = onnx_model.read(prepared)
        onnx_model.flatten_gemm_biases(model)
        onnx_model.save(model, prepared)
    return prepared


def _reader(quantization: Any, samples: list[Sample]) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Hands the samples out one at a time, as onnxruntime asks for them."""

        def __init__(self) -> None:
            self._pending: Iterator[Sample] = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self._pending, None)
            return None if sample is None else dict(sample)

    return Reader()


@contextmanager
def _mapping_errors(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ConversionError(f"ONNX Runtime cannot make the {what} variant: {_sentence(error)}.") from error


def _sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(". ") if lines else type(error).__name__


def _import() -> Any:
    keep_onnxruntime_silent()
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise missing("onnxruntime") from error
    return quantization
