"""A worker process: runs one model in one runtime, or one quantizer, for the converter that started it.

`python -m converters.workers.child` reads a message a line from standard input and answers on standard output
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
from converters.errors import ConversionError, ToolMissingError
from converters.package import mapping_os_errors
from converters.workers import memory, messages
from edge_agent.documents.errors import EdgeAgentError, ModelLoadError, StorageError
from edge_agent.engines import base

_MIN_TIMED_RUNS: Final = 3


class Child:
    """Answers messages; holds the engine that was loaded last."""

    def __init__(self) -> None:
        self._engine: base.Engine | None = None
        self._before_bytes = 0
        self._handlers: dict[type[Any], Callable[[Any], messages.Reply]] = {
            messages.Quantize: quantize,
            messages.Load: self.load,
            messages.Run: self.run,
            messages.Measure: self.measure,
        }

    def answer(self, ask: messages.Ask) -> messages.Reply:
        """Do what is asked and return the result, or why it failed."""
        try:
            with mapping_os_errors(Path.cwd()):
                return self._handlers[type(ask)](ask)
        except EdgeAgentError as error:
            return messages.Failed(kind=_kind(error), message=str(error))

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

    def _loaded(self) -> base.Engine:
        if self._engine is None:
            raise ModelLoadError("No model was loaded before it was to run.")
        return self._engine


def quantize(ask: messages.Quantize) -> messages.Done:
    """Make one quantized file; raises ConversionError or ToolMissingError."""
    from converters.quantize import onnx as quantize_onnx
    from converters.quantize import tflite as quantize_tflite

    source, target = Path(ask.source), Path(ask.target)
    match ask.method:
        case "onnx-dynamic":
            quantize_onnx.quantize_dynamic(source, target)
        case "onnx-int8-u8s8":
            quantize_onnx.quantize_static(source, target, _samples(ask), signed_activations=False)
        case "onnx-int8-s8s8":
            quantize_onnx.quantize_static(source, target, _samples(ask), signed_activations=True)
        case "tflite-dynamic":
            quantize_tflite.quantize_dynamic(source, target)
        case "tflite-fp16":
            quantize_tflite.quantize_half(source, target)
        case "tflite-int8":
            quantize_tflite.quantize_static(source, target, _samples(ask))
    return messages.Done()


def _samples(ask: messages.Quantize) -> list[arrays.Sample]:
    return list(arrays.read_all_inputs(Path(ask.data)))


def _kind(error: EdgeAgentError) -> Any:
    match error:
        case ToolMissingError():
            return "missing"
        case StorageError():
            return "storage"
        case ConversionError():
            return "conversion"
        case _:
            return "model"


def main() -> int:
    """Serve messages until standard input ends; returns the exit code."""
    # Runtimes print to descriptor 1 from native code; the answers get a descriptor of their own.
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    child = Child()
    decoder = msgspec.json.Decoder(messages.Ask)
    for line in sys.stdin.buffer:
        replies.write(msgspec.json.encode(child.answer(decoder.decode(line))) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
