"""TFLite models, run by LiteRT (`ai-edge-litert`) or `tflite-runtime`, which have the same Python interface.

Source: https://ai.google.dev/edge/api/tflite/python/tf/lite/Interpreter. The runtime is imported when a model
is loaded, never with this module.
"""

import ctypes
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import EngineSetupError, ModelLoadError
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import DATATYPE_OF_NUMPY, TensorSpec
from edge_agent.engines.base import Tensors
from edge_agent.engines.interpreters import Interpreter, Pool
from edge_agent.engines.runtimes import core_count, failure, sentence, thread_count

_MODULES: Final = {
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}

_WORTH: Final = 1.3
"""How much quicker several threads must be to be worth it."""
_TRIALS: Final = 4
_TRIALS_S: Final = 0.1
"""No further trial after this time."""


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes interpreters of one model file."""

    runtime: ModuleType
    path: Path
    delegates: tuple[Any, ...]

    def make(self, threads: int) -> Interpreter:
        """Return an interpreter of so many threads; the runtime's exceptions pass through."""
        return Interpreter(partial(self._allocated, threads))

    def _allocated(self, threads: int) -> Any:
        interpreter = self.runtime.Interpreter(
            model_path=str(self.path), num_threads=threads, experimental_delegates=list(self.delegates)
        )
        # It holds the interpreter lock for as long as that takes: 30 ms for a model of 6 MB.
        interpreter.allocate_tensors()
        return interpreter


class TfliteEngine:
    """A TFLite model. Interpreters are not thread-safe, so runs at the same time have one each.

    Quantized inputs and outputs are passed as they are, as INT8 or UINT8. An answer never depends on earlier
    calls, also for streaming models.
    """

    def __init__(self, first: Interpreter, pool: Pool) -> None:
        self.inputs: tuple[TensorSpec, ...] = tuple(_spec(detail) for detail in first.inputs)
        self.outputs: tuple[TensorSpec, ...] = tuple(_spec(detail) for detail in first.outputs)
        _check_names(self.inputs)
        _check_names(self.outputs)
        self._pool: Pool | None = pool

    @classmethod
    def runtime(cls, settings: EngineSettings) -> str | None:
        """Return `ai-edge-litert <version>` or `tflite-runtime <version>`, or None if neither can be used.

        tflite-runtime imports with numpy 2 but cannot run there, so with numpy 2 it counts as missing.
        """
        name = _choose(settings)
        return f"{name} {metadata.version(name)}" if name else None

    @classmethod
    def prepare(cls, settings: EngineSettings) -> None:
        """Import the runtime; raises EngineSetupError when none can be."""
        _import_runtime(settings)

    @classmethod
    def load(cls, path: Path, settings: EngineSettings) -> Self:
        """Load a TFLite file; raises ModelLoadError when the runtime or delegate is missing or refuses it."""
        runtime = _import_runtime(settings)
        maker = _Maker(runtime, path, _delegates(runtime, settings))
        try:
            first, threads = _set_up(maker, settings)
            count = max(1, core_count() // threads)
            return cls(first, Pool(first, partial(maker.make, threads), count))
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            raise failure(f"TFLite cannot load {path.name}", error) from error

    def run(self, inputs: Tensors, outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run once and return the named outputs (all if None) as C-contiguous arrays of their own memory.

        Inputs have the datatypes of `self.inputs` and shapes that those accept. Raises ModelLoadError when the
        runtime fails.
        """
        assert self._pool is not None
        try:
            interpreter = self._pool.take()
            try:
                return interpreter.run(inputs, outputs)
            finally:
                self._pool.give_back(interpreter)
        except (ValueError, RuntimeError, MemoryError) as error:
            raise failure("TFLite failed", error) from error

    def close(self) -> None:
        """Give the interpreters' memory back."""
        self._pool = None


def _set_up(maker: _Maker, settings: EngineSettings) -> tuple[Interpreter, int]:
    """Return a first interpreter, and the threads that each has.

    Several threads make a large model quicker, and a small one hardly (224 KB: 117 runs a second with one, 103
    with two), while two interpreters of one thread run twice as many. So where nothing is set it is measured
    which of the two a model is.
    """
    threads = thread_count(settings)
    several = maker.make(threads)
    if threads == 1 or settings.threads:
        return several, threads
    single = maker.make(1)
    shapes = [[max(int(size), 1) for size in detail["shape"]] for detail in single.inputs]
    zeros = {
        detail["name"]: np.zeros(shape, detail["dtype"])
        for detail, shape in zip(single.inputs, shapes, strict=True)
    }
    try:
        pays = _quickest_s(several, zeros) * _WORTH < _quickest_s(single, zeros)
    except (ValueError, RuntimeError):
        return several, threads  # a model may refuse zeros for reasons of its own
    return (several, threads) if pays else (single, 1)


def _quickest_s(interpreter: Interpreter, inputs: Tensors) -> float:
    took_s: list[float] = []
    while len(took_s) < _TRIALS and sum(took_s) < _TRIALS_S:
        started_s = perf_counter()
        interpreter.run(inputs)
        took_s.append(perf_counter() - started_s)
    return min(took_s)


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


def _check_names(specs: tuple[TensorSpec, ...]) -> None:
    if len({spec.name for spec in specs}) != len(specs):
        raise ModelLoadError("Two tensors of the TFLite model have the same name; convert it with other names.")
