"""tflite-runtime in a process of its own: it cannot load a model where TensorFlow was imported before."""

import atexit
import functools
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from converters import arrays
from converters.workers import messages
from converters.workers.worker import Worker, worker
from edge_agent.documents.settings import EngineSettings

SETTINGS = EngineSettings(tflite_runtime="tflite-runtime", threads=1)


class Elsewhere:
    """An engine whose model is loaded, again for each run, in the one worker that all of them share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        loaded = self._load()
        self.inputs, self.outputs = loaded.inputs, loaded.outputs

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        self._load()
        folder, child = shared()
        given, answers = folder / "inputs.npz", folder / "outputs.npz"
        arrays.write_arrays(given, arrays.named([inputs], "input"))
        child.ask(messages.Run(inputs=str(given), outputs=str(answers), samples=1), messages.Done)
        names = outputs or [spec.name for spec in self.outputs]
        return arrays.read_samples(answers, "output", names, 1)[0]

    def close(self) -> None:
        pass

    def _load(self) -> messages.Loaded:
        ask = messages.Load(engine="tflite", path=str(self._path.absolute()), settings=SETTINGS)
        return shared()[1].ask(ask, messages.Loaded)


@functools.cache
def shared() -> tuple[Path, Worker]:
    stack = ExitStack()
    atexit.register(stack.close)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return folder, stack.enter_context(worker(folder))
