"""ONNX models, run by ONNX Runtime.

Source: https://onnxruntime.ai/docs/api/python/api_summary.html. onnxruntime is imported when a model is loaded,
never with this module: it takes 45 MiB and 0.3 s.
"""

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import EngineSetupError, ModelLoadError, RequestError
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import Datatype, TensorSpec
from edge_agent.engines.base import Tensors
from edge_agent.engines.runtimes import failure, keep_onnxruntime_silent, sentence, thread_count

_DATATYPES: Final[dict[str, Datatype]] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

_DISTRIBUTIONS: Final = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
_SILENT: Final = 4
_BFLOAT16: Final = 16
"""`onnx.TensorProto.BFLOAT16`."""


class OnnxEngine:
    """An ONNX model; `run` is thread-safe, since ONNX Runtime sessions are."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs: tuple[TensorSpec, ...] = tuple(_spec(value) for value in session.get_inputs())
        self.outputs: tuple[TensorSpec, ...] = tuple(_spec(value) for value in session.get_outputs())
        self._names = [output.name for output in self.outputs]
        self._has_bfloat16 = any(spec.datatype == "BF16" for spec in self.inputs + self.outputs)
        self._has_bytes = any(spec.datatype == "BYTES" for spec in self.inputs + self.outputs)
        if self._has_bfloat16 and any(spec.datatype == "BYTES" for spec in self.inputs):
            raise ModelLoadError(
                "It has bfloat16 and an input of text, which ONNX Runtime does not take together from Python; "
                "export it with float32, or do without the text."
            )

    @classmethod
    def runtime(cls, settings: EngineSettings) -> str | None:
        """Return `onnxruntime <version>`, or None if it is not installed."""
        from importlib import metadata

        for distribution in _DISTRIBUTIONS:
            try:
                return f"onnxruntime {metadata.version(distribution)}"
            except metadata.PackageNotFoundError:
                continue
        return None

    @classmethod
    def prepare(cls, settings: EngineSettings) -> None:
        """Import the runtime; raises EngineSetupError when it cannot be."""
        _import_runtime()

    @classmethod
    def load(cls, path: Path, settings: EngineSettings) -> Self:
        """Load an ONNX file; raises ModelLoadError when onnxruntime or a provider is missing or refuses it."""
        runtime = _import_runtime()
        available = runtime.get_available_providers()
        for provider in settings.onnx_providers:
            if provider not in available:
                raise EngineSetupError(
                    f"The execution provider {provider} is not installed, this host has "
                    f"{', '.join(available)}; change engines.onnx_providers."
                )
        # By path, not by content: other threads then stall for 7 ms instead of 42 while a model is loaded.
        try:
            session = runtime.InferenceSession(
                str(path), _options(runtime, settings), providers=list(settings.onnx_providers)
            )
        except Exception as error:
            raise failure(f"ONNX Runtime cannot load {path.name}", error) from error
        return cls(session)

    def run(self, inputs: Tensors, outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run once and return the named outputs (all if None) as C-contiguous arrays of their own memory.

        Inputs have the datatypes of `self.inputs` and shapes that those accept; BYTES tensors are object arrays
        of bytes. Raises RequestError for BYTES that are not UTF-8, which ONNX strings must be, and
        ModelLoadError when the runtime fails.
        """
        names = self._names if outputs is None else list(outputs)
        if self._has_bytes:
            inputs = {name: _to_strings(name, tensor) for name, tensor in inputs.items()}
        try:
            run = self._run_bits if self._has_bfloat16 else self._session.run
            results = run(names, inputs)
        except Exception as error:
            raise failure("ONNX Runtime failed", error) from error
        if self._has_bytes:
            results = [_to_bytes(result) for result in results]
        return dict(zip(names, results, strict=True))

    def close(self) -> None:
        """Give the session's memory back."""
        self._session = None

    def _run_bits(self, names: list[str], inputs: Tensors) -> list[NDArray[Any]]:
        """Run with tensors of bfloat16, whose bits numpy holds as whole numbers."""
        make = _import_runtime().OrtValue
        values = {}
        for spec in self.inputs:
            tensor = inputs[spec.name]
            if spec.datatype == "BF16":
                values[spec.name] = make.ortvalue_from_numpy_with_onnx_type(tensor, _BFLOAT16)
            else:
                values[spec.name] = make.ortvalue_from_numpy(tensor)
        return [_of_value(value) for value in self._session.run_with_ort_values(names, values)]


def _import_runtime() -> ModuleType:
    keep_onnxruntime_silent()
    try:
        import onnxruntime
    except Exception as error:
        raise EngineSetupError(
            f"ONNX Runtime cannot be imported ({sentence(error)}); "
            "install it with: pip install 'edge-inference-agent[onnx]'."
        ) from error
    module: ModuleType = onnxruntime
    return module


def _of_value(value: Any) -> NDArray[Any]:
    if value.data_type() != "tensor(bfloat16)":
        tensor: NDArray[Any] = value.numpy()
        return tensor
    shape = tuple(value.shape())
    bits = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return np.frombuffer(bits, np.uint16).reshape(shape).copy()


def _options(runtime: ModuleType, settings: EngineSettings) -> Any:
    options = runtime.SessionOptions()
    # An explicit count respects the process's CPU affinity; ONNX Runtime's own default pins threads past it.
    options.intra_op_num_threads = thread_count(settings)
    options.inter_op_num_threads = 1
    # The arena never gives memory back: with Magika one batch of 64 keeps 205 MB, without it 0, and a run takes
    # as long. Memory patterns only serve the arena.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    # Threads that spin took half as much CPU again (15 against 10 ms a run), for a tenth of latency.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # What fails is raised; ONNX Runtime would also print it.
    options.log_severity_level = _SILENT
    return options


def _spec(value: Any) -> TensorSpec:
    datatype = _DATATYPES.get(value.type)
    if datatype is None:
        raise ModelLoadError(
            f"'{value.name}' is a {value.type}, which the protocol has no datatype for; export the model with "
            "plain tensors (for scikit-learn classifiers: zipmap off)."
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in value.shape)
    return TensorSpec(value.name, datatype, shape)


def _to_strings(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    """Turn bytes into str, as ONNX Runtime would otherwise take `str(item)`, which is `b'...'`."""
    if tensor.dtype != np.object_:
        return tensor
    strings = np.empty(tensor.shape, np.object_)
    try:
        strings.ravel()[:] = [item if isinstance(item, str) else bytes(item).decode() for item in tensor.flat]
    except UnicodeDecodeError as error:
        raise RequestError(f"Input '{name}' has an element that is not UTF-8; ONNX strings must be.") from error
    return strings


def _to_bytes(tensor: NDArray[Any]) -> NDArray[Any]:
    if tensor.dtype.kind not in "OU":
        return tensor
    encoded = np.empty(tensor.shape, np.object_)
    encoded.ravel()[:] = [str(item).encode() for item in tensor.flat]
    return encoded
