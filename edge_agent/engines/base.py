"""The interface that every engine implements, and how engines are found.

An engine is a loaded model. A plug-in offers a class with this shape through the entry point group
`edge_agent.engines`; the entry point's name is the `engine` of a manifest's variant.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, cast

from numpy.typing import NDArray

from edge_agent.documents.errors import EngineSetupError, ModelLoadError
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import TensorSpec

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "edge_agent.engines"

_OWN: Final = {"onnx": "OnnxEngine", "tflite": "TfliteEngine"}
"""Found without the entry points, whose reading takes 1.2 MB that stay."""

Tensors = Mapping[str, NDArray[Any]]


class Engine(Protocol):
    """A model loaded by one runtime, ready to run. `run` may be called from several threads at once."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def runtime(cls, settings: EngineSettings) -> str | None:
        """Return the runtime that would be used and its version, `onnxruntime 1.32.0`, or None if missing."""
        ...

    @classmethod
    def load(cls, path: Path, settings: EngineSettings) -> Self:
        """Load a model file; raises EngineSetupError when the runtime is missing or set up wrongly, and
        ModelLoadError when it refuses the file.
        """
        ...

    def run(self, inputs: Tensors, outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run once and return the named outputs (all if None) as C-contiguous arrays of their own memory.

        Inputs have the datatypes of `self.inputs` and shapes that those accept. Raises ModelLoadError when the
        runtime fails on them.
        """
        ...

    def close(self) -> None:
        """Give the memory back; no other method may be called afterwards."""
        ...


def find(name: str) -> type[Engine]:
    """Return the engine class registered under a name.

    Raises ModelLoadError for an unknown one, EngineSetupError for one that cannot be imported.
    """
    if name in _OWN:
        return _import(name, lambda: getattr(import_module(f"edge_agent.engines.{name}"), _OWN[name]))
    for entry in _entries():
        if entry.name == name:
            return _import(name, entry.load)
    known = ", ".join(sorted(entry.name for entry in _entries()))
    raise ModelLoadError(f"No engine is named '{name}'; this agent has: {known}.")


def installed(settings: EngineSettings) -> dict[str, str]:
    """Return the runtime of each engine whose runtime is installed, by engine name."""
    runtimes = {}
    for entry in _entries():
        try:
            runtime = _import(entry.name, entry.load).runtime(settings)
        except EngineSetupError:
            continue  # whoever wants this engine is told; the others are sound
        if runtime is not None:
            runtimes[entry.name] = runtime
    return runtimes


def _import(name: str, load: Callable[[], Any]) -> type[Engine]:
    try:
        return cast(type[Engine], load())
    except Exception as error:
        raise EngineSetupError(
            f"The engine '{name}' cannot be imported ({type(error).__name__}: {error}); install it again."
        ) from error


def _entries() -> "list[EntryPoint]":
    from importlib.metadata import entry_points

    return sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
