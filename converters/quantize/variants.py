"""Which variants to make of a source, and making them, each in a worker process."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from converters.arrays import Sample
from converters.errors import ConversionError
from converters.formats import onnx_model
from converters.formats.sources import SourceModel, read_source
from converters.quantize.boundary import Parameters, io_parameters
from converters.quantize.settings import QuantizeSettings
from converters.workers import messages
from converters.workers.trials import Bench
from edge_agent.documents.errors import RequestError
from edge_agent.documents.manifest import Precision

OFFERED: Final[tuple[Precision, ...]] = ("fp32", "fp16", "dynamic", "int8", "int16x8")
NEEDS_DATA: Final[tuple[Precision, ...]] = ("int8", "int16x8")

Methods = tuple[tuple[messages.Method, tuple[str, ...]], ...]
"""Ways to make a precision, each with the architectures that it is for; none means all."""

_METHODS: Final[dict[tuple[str, str], Methods]] = {
    ("onnx", "fp16"): (("onnx-fp16", ()),),
    ("onnx", "dynamic"): (("onnx-dynamic", ()),),
    # Unsigned activations are twice as fast on x86, signed ones preferred on ARM.
    ("onnx", "int8"): (("onnx-int8-u8s8", ("x86_64",)), ("onnx-int8-s8s8", ("aarch64",))),
    ("tflite", "fp16"): (("tflite-fp16", ()),),
    ("tflite", "dynamic"): (("tflite-dynamic", ()),),
    ("tflite", "int8"): (("tflite-int8", ()),),
    ("tflite", "int16x8"): (("tflite-int16x8", ()),),
}

_INTEGER_ENDS: Final[dict[str, Methods]] = {
    # Inputs and outputs have one datatype, so all architectures get the same file.
    "int8": (("onnx-int8-s8s8", ()),),
    "uint8": (("onnx-int8-u8s8", ()),),
}

_DEFAULT: Final = QuantizeSettings()


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
    boundary: Parameters = field(default_factory=dict)
    """Scale and zero point of integer inputs and outputs; empty where they are floats."""


def wanted(
    source: SourceModel,
    precisions: Sequence[str] | None,
    *,
    has_data: bool,
    settings: QuantizeSettings = _DEFAULT,
) -> tuple[Precision, ...]:
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
            _check_ends(source, known, settings)
            chosen.append(known)
    if not chosen:
        raise RequestError(f"No precision was given; choose among {', '.join(OFFERED)}.")
    return tuple(chosen)


def methods(source: SourceModel, precision: Precision, settings: QuantizeSettings = _DEFAULT) -> Methods:
    """Return how a precision is made of a source, with the architectures that each file is for."""
    if source.engine == "onnx" and precision == "int8" and settings.io in _INTEGER_ENDS:
        return _INTEGER_ENDS[settings.io]
    return _METHODS[source.engine, precision]


def fallback(
    source: SourceModel, precision: Precision, settings: QuantizeSettings = _DEFAULT
) -> messages.Method | None:
    """Return another way for runtimes that get the first one wrong, None if there is none.

    tflite-runtime 2.14 computes dynamic FULLY_CONNECTED operators with a scale for each channel wrong.
    """
    if (source.engine, precision) == ("tflite", "dynamic") and settings.per_channel:
        return "tflite-dynamic-tensorwise"
    return None


def make(
    bench: Bench,
    source: SourceModel,
    precision: Precision,
    calibration: Sequence[Sample],
    folder: Path,
    settings: QuantizeSettings = _DEFAULT,
) -> list[Candidate]:
    """Make the files of one precision in `folder`; the source itself where it has that precision already.

    What calibration found is kept in `folder`, so that the same source with other exclusions is made without
    it. Raises ConversionError when there is nothing to quantize, or the library's reason, mapped.
    """
    if precision == source.precision:
        return [Candidate(precision, source.engine, source.path, source.size_bytes, source.sha256, "as it is")]
    if precision == "dynamic" and source.engine == "onnx" and not onnx_model.quantizable_weights(source.parsed):
        raise ConversionError(
            "The model has no MatMul or Gemm with constant weights, which is what dynamic quantization of ONNX "
            "covers; int8 with --data covers convolutions too."
        )
    data = bench.samples_file(calibration) if precision in NEEDS_DATA else None
    return [
        _made(bench, source, precision, method, architectures, data, folder, settings)
        for method, architectures in methods(source, precision, settings)
    ]


def make_fallback(
    bench: Bench,
    source: SourceModel,
    precision: Precision,
    folder: Path,
    settings: QuantizeSettings = _DEFAULT,
) -> Candidate | None:
    """Make the file of `fallback` in `folder`; raises like `make`."""
    method = fallback(source, precision, settings)
    return None if method is None else _made(bench, source, precision, method, (), None, folder, settings)


def ranges_file(source: SourceModel, data: Path, folder: Path, settings: QuantizeSettings) -> Path:
    """Return where the ranges of a source over calibration data are kept."""
    with data.open("rb") as file:
        samples = hashlib.file_digest(file, "sha256").hexdigest()
    told = f"{source.sha256} {samples} {settings.calibration} {settings.percentile}"
    return folder / f"ranges-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"


def _made(
    bench: Bench,
    source: SourceModel,
    precision: Precision,
    method: messages.Method,
    architectures: tuple[str, ...],
    data: Path | None,
    folder: Path,
    settings: QuantizeSettings,
) -> Candidate:
    # Sources and settings that differ may share a folder, as they do in a search.
    told = f"{source.sha256} {settings}"
    target = folder / f"{method}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.{source.engine}"
    message = messages.Quantize(
        method=method,
        source=str(source.path.absolute()),
        target=str(target.absolute()),
        data="" if data is None else str(data.absolute()),
        ranges="" if data is None else str(ranges_file(source, data, folder.absolute(), settings)),
        settings=settings,
    )
    bench.quantize(message)
    boundary = io_parameters(target) if settings.io != "float" and precision == "int8" else {}
    return _candidate(source, precision, target, method, architectures, boundary)


def _candidate(
    source: SourceModel,
    precision: Precision,
    target: Path,
    method: str,
    architectures: tuple[str, ...],
    boundary: Parameters,
) -> Candidate:
    if read_source(target).precision != precision:
        raise ConversionError(
            f"Nothing in the model could be turned into {precision}: its operators are not among those that "
            "the quantizer covers."
        )
    content = target.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Candidate(precision, source.engine, target, len(content), digest, method, architectures, boundary)


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
            f"{precision} is made from TFLite only, since ONNX Runtime has no kernels for 16-bit activations "
            "on a CPU; ask for fp32, fp16, dynamic or int8."
        )
    if source.engine == "onnx" and source.precision == "fp16":
        raise ConversionError(f"{precision} is made from float32 ONNX models; export this one in float32.")


def _check_data(source: SourceModel, precision: Precision, *, has_data: bool) -> None:
    if precision in NEEDS_DATA and precision != source.precision and not has_data:
        raise RequestError(
            f"{precision} needs samples to calibrate with; give --data FILE.npz with an array per input."
        )


def _check_ends(source: SourceModel, precision: Precision, settings: QuantizeSettings) -> None:
    if source.engine == "tflite" and precision == "int8" and settings.io == "uint8":
        raise ConversionError(
            "uint8 inputs and outputs are made for ONNX only, since TFLite's int8 operators have signed "
            "activations; ask for io = 'int8' or 'float'."
        )
