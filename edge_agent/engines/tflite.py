"""TFLite models, run by LiteRT (`ai-edge-litert`) or `tflite-runtime`, which have the same Python interface.

Source: https://ai.google.dev/edge/api/tflite/python/tf/lite/Interpreter. The runtime is imported when a model
is loaded, never with this module.
"""

import ctypes
import importlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import EngineSetupError, ModelLoadError
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import DATATYPE_OF_NUMPY, TensorSpec
from edge_agent.engines.base import Tensors
from edge_agent.engines.runtimes import sentence, thread_count

_MODULES: Final = {
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes interpreters of one model file."""

    runtime: ModuleType
    path: Path
    threads: int
    delegates: tuple[Any, ...]

    def make(self) -> Any:
        """Return an interpreter with its tensors allocated; the runtime's exceptions pass through."""
        interpreter = self.runtime.Interpreter(
            model_path=str(self.path), num_threads=self.threads, experimental_delegates=list(self.delegates)
        )
        interpreter.allocate_tensors()
        return interpreter


class TfliteEngine:
    """A TFLite model. Interpreters are not thread-safe, so runs wait for each other.

    Quantized inputs and outputs are passed as they are, as INT8 or UINT8. An answer never depends on earlier
    calls, also for streaming models.
    """

    def __init__(self, maker: _Maker) -> None:
        self._maker = maker
        self._lock = threading.Lock()
        self._interpreter = maker.make()
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        self.inputs: tuple[TensorSpec, ...] = tuple(_spec(detail) for detail in inputs)
        self.outputs: tuple[TensorSpec, ...] = tuple(_spec(detail) for detail in outputs)
        self._input_index = _by_name(inputs)
        self._output_index = _by_name(outputs)
        self._shapes = {detail["name"]: tuple(detail["shape"].tolist()) for detail in inputs}
        self._has_state = _has_resource_variables(self._interpreter)

    @classmethod
    def runtime(cls, settings: EngineSettings) -> str | None:
        """Return `ai-edge-litert <version>` or `tflite-runtime <version>`, or None if neither can be used.

        tflite-runtime imports with numpy 2 but cannot run there, so with numpy 2 it counts as missing.
        """
        name = _choose(settings)
        return f"{name} {metadata.version(name)}" if name else None

    @classmethod
    def load(cls, path: Path, settings: EngineSettings) -> Self:
        """Load a TFLite file; raises ModelLoadError when the runtime or delegate is missing or refuses it."""
        runtime = _import_runtime(settings)
        maker = _Maker(runtime, path, thread_count(settings), _delegates(runtime, settings))
        try:
            return cls(maker)
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelLoadError(f"TFLite cannot load {path.name}: {sentence(error)}.") from error

    def run(self, inputs: Tensors, outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run once and return the named outputs (all if None) as C-contiguous arrays of their own memory.

        Inputs have the datatypes of `self.inputs` and shapes that those accept. Raises ModelLoadError when the
        runtime fails.
        """
        with self._lock:
            try:
                self._forget()
                self._resize(inputs)
                for name, index in self._input_index.items():
                    self._interpreter.set_tensor(index, inputs[name])
                self._interpreter.invoke()
                names = self._output_index if outputs is None else outputs
                return {name: self._interpreter.get_tensor(self._output_index[name]) for name in names}
            except (ValueError, RuntimeError) as error:
                raise ModelLoadError(f"TFLite failed: {sentence(error)}.") from error

    def close(self) -> None:
        """Give the interpreter's memory back."""
        with self._lock:
            self._interpreter = None

    def _forget(self) -> None:
        """Bring a streaming model back to its initial state.

        `reset_all_variables` covers variable tensors alone, in both runtimes: resource variables keep what
        earlier calls left, so a model that has them gets a new interpreter (0.4 ms for a 60 KB model).
        """
        if self._has_state:
            self._interpreter = self._maker.make()
            self._shapes = {}
        else:
            self._interpreter.reset_all_variables()

    def _resize(self, inputs: Tensors) -> None:
        shapes = {name: inputs[name].shape for name in self._input_index}
        if shapes == self._shapes:
            return
        # Unknown until the allocation has worked, so that the run after a failed one allocates again.
        self._shapes = {}
        for name, index in self._input_index.items():
            self._interpreter.resize_tensor_input(index, shapes[name])
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _choose(settings: EngineSettings) -> str | None:
    wanted = _MODULES if settings.tflite_runtime == "auto" else (settings.tflite_runtime,)
    return next((name for name in wanted if _is_usable(name)), None)


def _is_usable(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return name != "tflite-runtime" or int(np.__version__.split(".")[0]) < 2


def _import_runtime(settings: EngineSettings) -> ModuleType:
    name = _choose(settings)
    if name is None:
        raise EngineSetupError(
            "No TFLite runtime can be used (tflite-runtime also needs numpy < 2); "
            "install one with: pip install 'edge-inference-agent[tflite]'."
        )
    try:
        return importlib.import_module(_MODULES[name])
    except Exception as error:
        raise EngineSetupError(f"{name} cannot be imported ({sentence(error)}); install it again.") from error


def _delegates(runtime: ModuleType, settings: EngineSettings) -> tuple[Any, ...]:
    library = settings.tflite_delegate
    if library is None:
        return ()
    try:
        # Looked up here first, because the runtimes' Delegate fails in its destructor on a library without it.
        _ = ctypes.CDLL(library).tflite_plugin_create_delegate
        return (runtime.load_delegate(library, settings.tflite_delegate_options),)
    except (ValueError, RuntimeError, OSError, AttributeError) as error:
        raise EngineSetupError(
            f"The delegate {library} cannot be loaded ({sentence(error)}); change engines.tflite_delegate."
        ) from error


def _spec(detail: dict[str, Any]) -> TensorSpec:
    datatype = DATATYPE_OF_NUMPY.get(np.dtype(detail["dtype"]).name)
    if datatype is None or datatype == "BYTES":
        kind = np.dtype(detail["dtype"]).name
        raise ModelLoadError(f"'{detail['name']}' is a tensor of {kind}, which cannot be served with TFLite.")
    # tflite-runtime leaves the signature empty where every dimension is fixed in some older models.
    signature = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    return TensorSpec(detail["name"], datatype, tuple(int(size) for size in signature))


def _by_name(details: list[dict[str, Any]]) -> dict[str, int]:
    indexes = {detail["name"]: int(detail["index"]) for detail in details}
    if len(indexes) != len(details):
        raise ModelLoadError("Two tensors of the TFLite model have the same name; convert it with other names.")
    return indexes


def _has_resource_variables(interpreter: Any) -> bool:
    """Say whether the model keeps state between calls; neither runtime has a public call that tells."""
    return any(op["op_name"] == "VAR_HANDLE" for op in interpreter._get_ops_details())
