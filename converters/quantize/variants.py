"""Which variants to make of a source, and making them, each in a worker process."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from converters.arrays import Sample
from converters.errors import ConversionError
from converters.formats import onnx_model
from converters.formats.sources import SourceModel, read_source
from converters.workers import messages
from converters.workers.trials import Bench
from edge_agent.documents.errors import RequestError
from edge_agent.documents.manifest import Precision

OFFERED: Final[tuple[Precision, ...]] = ("fp32", "fp16", "dynamic", "int8")
NEEDS_DATA: Final[tuple[Precision, ...]] = ("int8",)

Method = Literal[
    "onnx-dynamic", "onnx-int8-u8s8", "onnx-int8-s8s8", "tflite-dynamic", "tflite-fp16", "tflite-int8"
]

_METHODS: Final[dict[tuple[str, str], tuple[tuple[Method, tuple[str, ...]], ...]]] = {
    ("onnx", "dynamic"): (("onnx-dynamic", ()),),
    # Unsigned activations are twice as fast on x86, signed ones preferred on ARM.
    ("onnx", "int8"): (("onnx-int8-u8s8", ("x86_64",)), ("onnx-int8-s8s8", ("aarch64",))),
    ("tflite", "dynamic"): (("tflite-dynamic", ()),),
    ("tflite", "fp16"): (("tflite-fp16", ()),),
    ("tflite", "int8"): (("tflite-int8", ()),),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may become a variant."""

    precision: Precision
    engine: str
    path: Path
    size_bytes: int
    sha256: str
    method: str
    """How it was made; `as it is` for the source itself."""
    architectures: tuple[str, ...] = ()


def wanted(source: SourceModel, precisions: Sequence[str] | None, *, has_data: bool) -> tuple[Precision, ...]:
    """Return the precisions to make: those asked for, else the source as it is and a dynamic variant.

    Raises RequestError for a name that is none, ConversionError for what this source cannot become.
    """
    if precisions is None:
        return (source.precision,) if source.is_quantized else (source.precision, "dynamic")
    chosen: list[Precision] = []
    for name in precisions:
        known = next((one for one in (*OFFERED, source.precision) if one == name), None)
        if known is None:
            raise RequestError(f"There is no precision '{name}'; choose among {', '.join(OFFERED)}.")
        if known not in chosen:
            _check_reachable(source, known)
            _check_data(source, known, has_data=has_data)
            chosen.append(known)
    if not chosen:
        raise RequestError(f"No precision was given; choose among {', '.join(OFFERED)}.")
    return tuple(chosen)


def make(
    bench: Bench, source: SourceModel, precision: Precision, calibration: Sequence[Sample], folder: Path
) -> list[Candidate]:
    """Make the files of one precision in `folder`; the source itself where it has that precision already.

    Raises ConversionError when there is nothing to quantize, or the library's reason, mapped.
    """
    if precision == source.precision:
        return [Candidate(precision, source.engine, source.path, source.size_bytes, source.sha256, "as it is")]
    if precision == "dynamic" and source.engine == "onnx" and not onnx_model.quantizable_weights(source.parsed):
        raise ConversionError(
            "The model has no MatMul or Gemm with constant weights, which is what dynamic quantization of ONNX "
            "covers; int8 with --data covers convolutions too."
        )
    data = str(bench.samples_file(calibration)) if precision in NEEDS_DATA else ""
    made = []
    for method, architectures in _METHODS[source.engine, precision]:
        target = folder / f"{method}.{source.engine}"
        bench.quantize(
            messages.Quantize(method=method, source=str(source.path.absolute()), target=str(target), data=data)
        )
        made.append(_candidate(source, precision, target, method, architectures))
    return made


def _candidate(
    source: SourceModel, precision: Precision, target: Path, method: str, architectures: tuple[str, ...]
) -> Candidate:
    if read_source(target).precision != precision:
        raise ConversionError(
            f"Nothing in the model could be turned into {precision}: its operators are not among those that "
            "the quantizer covers."
        )
    content = target.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Candidate(precision, source.engine, target, len(content), digest, method, architectures)


def _check_reachable(source: SourceModel, precision: Precision) -> None:
    if precision == source.precision:
        return
    if source.is_quantized:
        raise ConversionError(
            f"The model is quantized already ({source.precision}) and is left alone; to get {precision}, start "
            "from the float model."
        )
    if precision == "fp32":
        raise ConversionError(
            f"The model's weights are {source.precision} already; ask for --precision {source.precision}, or "
            "start from a float32 model."
        )
    if (source.engine, precision) not in _METHODS:
        raise ConversionError(
            f"{precision} is made from TFLite only, since ONNX Runtime computes it in float32 on a CPU; ask "
            "for fp32, dynamic or int8."
        )
    if source.engine == "onnx" and source.precision == "fp16":
        raise ConversionError(f"{precision} is made from float32 ONNX models; export this one in float32.")


def _check_data(source: SourceModel, precision: Precision, *, has_data: bool) -> None:
    if precision in NEEDS_DATA and precision != source.precision and not has_data:
        raise RequestError(
            f"{precision} needs samples to calibrate with; give --data FILE.npz with an array per input."
        )
