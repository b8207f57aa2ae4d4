"""Runs candidates on the runtimes that this host has: the shell around `evaluate`."""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from converters import arrays
from converters.arrays import Sample
from converters.errors import missing
from converters.terms import Advanced, unheard
from converters.workers import messages
from converters.workers.worker import Worker, worker
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import TensorSpec
from edge_agent.engines import base

RUNTIMES: Final[dict[str, dict[str, EngineSettings]]] = {
    "onnx": {"onnxruntime": EngineSettings()},
    "tflite": {
        "ai-edge-litert": EngineSettings(tflite_runtime="ai-edge-litert"),
        "tflite-runtime": EngineSettings(tflite_runtime="tflite-runtime"),
    },
}
"""The runtimes of each engine, the reference runtime first."""

CHUNK: Final = 25
"""Samples that a worker runs before it reports, so that a hang is told from a long evaluation."""

ROUNDS: Final = 5
ROUND_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in a worker of its own."""

    worker: Worker
    runtime: str
    """Name and version, `onnxruntime 1.32.0`."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    engine: str
    path: Path

    @property
    def runtime_name(self) -> str:
        """The runtime's name without its version."""
        return self.runtime.split()[0]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What running a model takes on this host."""

    latency_ms: float
    """Median of a run."""
    memory_bytes: int
    """Resident memory that loading and running add at their peak, the runtime's library left out."""


class Bench:
    """Loads models into workers, runs samples, measures; ends every worker it started."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack

    @contextmanager
    def brief(self) -> Iterator["Bench"]:
        """Open a bench in the same folder whose workers end with the block."""
        with ExitStack() as stack:
            yield Bench(self._folder, stack)

    def load(self, engine: str, runtime: str, path: Path) -> Loaded:
        """Load a file in a new worker, which lives as long as the bench.

        Raises ModelLoadError when the runtime is missing or refuses it, WorkerError when it crashes.
        """
        child = self._stack.enter_context(worker(self._folder))
        settings = RUNTIMES[engine][runtime]
        answer = child.ask(
            messages.Load(engine=engine, path=str(path.absolute()), settings=settings), messages.Loaded
        )
        return Loaded(child, answer.runtime, answer.inputs, answer.outputs, engine, path)

    def quantize(self, message: messages.Quantize) -> None:
        """Make a quantized file in a worker; raises ConversionError, ToolMissingError or WorkerError."""
        with worker(self._folder) as child:
            child.ask(message, messages.Done)

    def rank(self, message: messages.Rank, advanced: Advanced) -> dict[str, float]:
        """Return each layer's loss when it alone is quantized; raises like `quantize`."""
        with worker(self._folder) as child:
            return child.ask(message, messages.Ranked, advanced).losses

    def observe(self, message: messages.Observe) -> tuple[messages.Shown, ...]:
        """Return what calibration shows of some activations; raises like `quantize`."""
        with worker(self._folder) as child:
            return child.ask(message, messages.Observed).tensors

    def run(
        self,
        loaded: Loaded,
        samples: Sequence[Sample],
        *,
        backwards: bool = False,
        advanced: Advanced = unheard,
    ) -> list[dict[str, arrays.Array]]:
        """Run each sample once and return the answers; `advanced` hears the share that is done."""
        answers: list[dict[str, arrays.Array]] = []
        for start in range(0, len(samples), CHUNK):
            chunk = samples[start : start + CHUNK]
            with self._exchange(chunk) as (inputs, outputs):
                ask = messages.Run(
                    inputs=str(inputs), outputs=str(outputs), samples=len(chunk), backwards=backwards
                )
                loaded.worker.ask(ask, messages.Done)
                names = [spec.name for spec in loaded.outputs]
                answers += arrays.read_samples(outputs, "output", names, len(chunk))
            advanced(len(answers) / len(samples))
        return answers

    def measure(self, loaded: Sequence[Loaded], sample: Sample) -> list[Measurement]:
        """Return what a run of each model takes: time in turns, memory in a fresh worker for each."""
        return self.measure_each(loaded, [sample] * len(loaded))

    def measure_each(self, loaded: Sequence[Loaded], samples: Sequence[Sample]) -> list[Measurement]:
        """Do as `measure` with a sample for each model, whose inputs may have other names."""
        return [
            Measurement(1000 * statistics.median(times), self._memory_bytes(model, sample))
            for times, model, sample in zip(self._times_s(loaded, samples), loaded, samples, strict=True)
        ]

    def latencies_ms(self, loaded: Sequence[Loaded], sample: Sample) -> list[float]:
        """Return the median milliseconds of a run of each model, measured in turns."""
        return [1000 * statistics.median(times) for times in self._times_s(loaded, [sample] * len(loaded))]

    def _times_s(self, loaded: Sequence[Loaded], samples: Sequence[Sample]) -> list[list[float]]:
        runs: list[list[float]] = [[] for _ in loaded]
        with ExitStack() as stack:
            files = [stack.enter_context(self._exchange([sample]))[0] for sample in samples]
            for _ in range(ROUNDS):
                for model, inputs, times in zip(loaded, files, runs, strict=True):
                    ask = messages.Measure(inputs=str(inputs), seconds=ROUND_S)
                    times += model.worker.ask(ask, messages.Measured).runs_s
        return runs

    def _memory_bytes(self, model: Loaded, sample: Sample) -> int:
        # The worker that answered the evaluation has grown by what it read and wrote.
        with self.brief() as brief, self._exchange([sample]) as (inputs, _):
            fresh = brief.load(model.engine, model.runtime_name, model.path)
            return fresh.worker.ask(
                messages.Measure(inputs=str(inputs), seconds=0.0), messages.Measured
            ).memory_bytes

    def samples_file(self, samples: Sequence[Sample]) -> Path:
        """Write samples for a quantizer and return the file."""
        path = self._folder / "calibration.npz"
        arrays.write_arrays(path, arrays.named(samples, "input"))
        return path

    @contextmanager
    def _exchange(self, samples: Sequence[Sample]) -> Iterator[tuple[Path, Path]]:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            inputs, outputs = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
            arrays.write_arrays(inputs, arrays.named(samples, "input"))
            yield inputs, outputs


def installed_runtimes(engine: str) -> tuple[str, ...]:
    """Return the names of the engine's runtimes that this host has; raises ToolMissingError if it has none."""
    kind = base.find(engine)
    names = tuple(name for name, settings in RUNTIMES[engine].items() if kind.runtime(settings) is not None)
    if not names:
        raise missing(next(iter(RUNTIMES[engine])), engine)
    return names
