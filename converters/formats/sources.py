"""The model that a conversion starts from: which format it is, told by its content, and what is in it."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from converters.formats import onnx_model, tflite_model
from edge_agent.documents.errors import EdgeAgentError, ModelError, NotFoundError
from edge_agent.documents.manifest import Precision

_NAMES: Final = {"onnx": "an ONNX model", "tflite": "a TFLite model"}

MAX_BYTES: Final = 2 * 2**30 - 1
"""Protobuf and flatbuffer files end at 2 GB."""


@dataclass(frozen=True, slots=True)
class SourceModel:
    """A model file that was read and found whole."""

    path: Path
    engine: str
    """`onnx` or `tflite`: the engine that runs it, and the framework in the manifest."""
    precision: Precision
    sha256: str
    size_bytes: int
    operators: Counter[str]
    parsed: Any
    """The format's own object, `onnx.ModelProto` or the TFLite schema's `ModelT`, for the quantizers."""

    @property
    def is_quantized(self) -> bool:
        """Say whether the model was quantized before it came here."""
        return self.precision in ("int8", "int16x8", "dynamic")


def read_source(path: Path) -> SourceModel:
    """Read a model file; raises NotFoundError or ModelError with one sentence on what is wrong with it."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise NotFoundError(f"{path} {what}; give an .onnx or .tflite file.")
    try:
        _check_size(path, path.stat().st_size)
        content = path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"Cannot read {path}: {error.strerror}; check its permissions.") from error
    start = tflite_model.IDENTIFIER_OFFSET_BYTES
    engine = "tflite" if content[start : start + 4] == tflite_model.IDENTIFIER else "onnx"
    try:
        return _parsed(path, engine, content)
    except EdgeAgentError:
        raise
    except Exception as error:
        # Damage that the parsers let through shows when the parts are looked at.
        raise ModelError(
            f"{path} is truncated or damaged ({type(error).__name__} in what begins as {_NAMES[engine]}); give "
            "a complete file."
        ) from error


def _parsed(path: Path, engine: str, content: bytes) -> SourceModel:
    digest = hashlib.sha256(content).hexdigest()
    if engine == "tflite":
        flat = tflite_model.read(path)
        counts, precision = tflite_model.operators(flat), tflite_model.precision(flat)
        return SourceModel(path, engine, precision, digest, len(content), counts, flat)
    proto = onnx_model.read(path)
    if onnx_model.is_random(proto):
        raise ModelError(
            f"{path} draws random numbers, so its answers cannot be checked on a device; "
            "export it in inference mode."
        )
    counts, precision = onnx_model.operators(proto), onnx_model.precision(proto)
    return SourceModel(path, engine, precision, digest, len(content), counts, proto)


def _check_size(path: Path, size_bytes: int) -> None:
    if size_bytes == 0:
        raise ModelError(f"{path} is empty; give a complete .onnx or .tflite file.")
    if size_bytes > MAX_BYTES:
        raise ModelError(
            f"{path} is larger than 2 GB, which neither format holds in one file; use a smaller model."
        )
