"""A worker process: one runtime, quantizer or framework, at work for the converter that started it.

`python -m converters.jobs.child` reads a message a line from standard input and answers on standard output
until its input ends. What the libraries print goes to standard error. A crash in native code ends this process
alone.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from converters import arrays
from converters.errors import ConversionError, DataError, ToolMissingError
from converters.frameworks import registry
from converters.jobs import exporting, memory, quantizing
from converters.package import mapping_os_errors
from converters.terms import Origin
from converters.workers import messages
from edge_agent.documents.errors import EdgeAgentError, ModelLoadError, RequestError, StorageError
from edge_agent.engines import base

_MIN_TIMED_RUNS: Final = 3


class Child:
    """Answers messages; holds the engine and the framework's model that were loaded last."""

    def __init__(self, send: Callable[[messages.Reply], None]) -> None:
        self._send = send
        self._engine: base.Engine | None = None
        self._live: tuple[Origin, Any] | None = None
        self._before_bytes = 0
        self._handlers: dict[type[Any], Callable[[Any], messages.Reply]] = {
            messages.Quantize: quantizing.quantize,
            messages.Rank: self.rank,
            messages.Observe: quantizing.observe,
            messages.Load: self.load,
            messages.Run: self.run,
            messages.Measure: self.measure,
            messages.InputNames: self.input_names,
            messages.Export: self.export,
            messages.Prune: self.prune,
        }

    def answer(self, ask: messages.Ask) -> messages.Reply:
        """Do what is asked and return the result, or why it failed."""
        try:
            with mapping_os_errors(Path.cwd()):
                return self._handlers[type(ask)](ask)
        except EdgeAgentError as error:
            return messages.Failed(kind=_kind(error), message=str(error))
        except MemoryError:
            return messages.Failed(kind="model", message="There is not enough memory for it on this host.")
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return messages.Failed(kind="worker", message=f"Unexpected {said}; please report this.")

    def load(self, ask: messages.Load) -> messages.Loaded:
        """Load a model; raises ModelLoadError."""
        kind = base.find(ask.engine)
        runtime = kind.runtime(ask.settings) or ""
        self._before_bytes = memory.begin(runtime.split(" ")[0])
        engine = kind.load(Path(ask.path), ask.settings)
        self._engine = engine
        return messages.Loaded(runtime=runtime, inputs=engine.inputs, outputs=engine.outputs)

    def run(self, ask: messages.Run) -> messages.Done:
        """Run all samples once; raises ModelLoadError when the runtime fails on one."""
        engine = self._loaded()
        names = [spec.name for spec in engine.inputs]
        samples = arrays.read_samples(Path(ask.inputs), "input", names, ask.samples)
        order = range(ask.samples)
        answers = {index: engine.run(samples[index]) for index in (reversed(order) if ask.backwards else order)}
        outputs = arrays.named([answers[index] for index in order], "output")
        arrays.write_arrays(Path(ask.outputs), outputs)
        return messages.Done()

    def measure(self, ask: messages.Measure) -> messages.Measured:
        """Time runs of the first sample; the first run, which warms up, does not count.

        The memory is that of the model alone only where nothing else was loaded or run here before.
        """
        engine = self._loaded()
        names = [spec.name for spec in engine.inputs]
        sample = arrays.read_samples(Path(ask.inputs), "input", names, 1)[0]
        engine.run(sample)
        runs: list[float] = []
        end = time.perf_counter() + ask.seconds
        while len(runs) < _MIN_TIMED_RUNS or time.perf_counter() < end:
            begin = time.perf_counter()
            engine.run(sample)
            runs.append(time.perf_counter() - begin)
        return messages.Measured(runs_s=tuple(runs), memory_bytes=memory.added(self._before_bytes))

    def input_names(self, ask: messages.InputNames) -> messages.Named:
        """Tell the names of a model's inputs; raises like the framework's functions."""
        framework = registry.find(ask.origin.framework)
        return messages.Named(names=framework.input_names(self._model(ask.origin)))

    def export(self, ask: messages.Export) -> messages.Exported:
        """Write a model's files; raises like the framework's functions."""
        return exporting.export(registry.find(ask.origin.framework), self._model(ask.origin), ask)

    def prune(self, ask: messages.Prune) -> messages.Pruned:
        """Write a pruned copy's files and tell of progress; raises like the framework's functions."""
        framework = registry.find(ask.origin.framework)
        return exporting.prune(framework, self._model(ask.origin), ask, self._advanced)

    def _model(self, origin: Origin) -> Any:
        if self._live is None or self._live[0] != origin:
            self._live = (origin, registry.find(origin.framework).load(origin))
        return self._live[1]

    def rank(self, ask: messages.Rank) -> messages.Ranked:
        """Quantize each layer alone; tells the share that is done."""
        return quantizing.rank(ask, self._advanced)

    def _advanced(self, share: float) -> None:
        self._send(messages.Advanced(share=share))

    def _loaded(self) -> base.Engine:
        if self._engine is None:
            raise ModelLoadError("No model was loaded before it was to run.")
        return self._engine


def _kind(error: EdgeAgentError) -> messages.FailureKind:
    match error:
        case ToolMissingError():
            return "missing"
        case StorageError():
            return "storage"
        case ConversionError():
            return "conversion"
        case DataError():
            return "data"
        case RequestError():
            return "request"
        case _:
            return "model"


def main() -> int:
    """Serve messages until standard input ends; returns the exit code."""
    # Runtimes print to descriptor 1 from native code; the answers get a descriptor of their own.
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def send(reply: messages.Reply) -> None:
        replies.write(msgspec.json.encode(reply) + b"\n")

    child = Child(send)
    decoder = msgspec.json.Decoder(messages.Ask)
    for line in sys.stdin.buffer:
        send(child.answer(decoder.decode(line)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
