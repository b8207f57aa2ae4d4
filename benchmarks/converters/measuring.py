"""Scores, sizes, latencies and memory of the files that were built, each in a worker process of its own."""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.converters.building import FLOAT, Built
from benchmarks.converters.subjects import PRUNED, SEARCH, Sample, Subject
from converters.workers.trials import RUNTIMES, Bench, Loaded
from edge_agent.documents.errors import EdgeAgentError

ZSTD_LEVEL = 19
ORDER = (FLOAT, "fp16", "dynamic", "int8", "int16x8", SEARCH, PRUNED)
"""The float model first, whose answers the others are compared with."""
REFERENCE = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}


@dataclass
class Line:
    """What was measured of one variant on one runtime, over the seeds."""

    variant: str
    format: str
    runtime: str
    offered: bool
    """Whether the package offers the variant to this runtime."""
    size_bytes: int
    compressed_bytes: int
    score: list[float] = field(default_factory=list)
    """Points, one a seed."""
    latency_ms: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    failure: str = ""

    @property
    def mean_score(self) -> float | None:
        return statistics.fmean(self.score) if self.score else None

    @property
    def median_latency_ms(self) -> float | None:
        return statistics.median(self.latency_ms) if self.latency_ms else None


def measure(subject: Subject, files: Sequence[Built], folder: Path, runtimes: Sequence[str]) -> list[Line]:
    """Measure every file on every runtime of its format; the latencies of one runtime are measured in turns."""
    lines = []
    for form in dict.fromkeys(file.format for file in files):
        own = [file for file in files if file.format == form]
        reference: list[dict[str, object]] = []
        for runtime in RUNTIMES[form]:
            if runtime in runtimes:
                lines += _on_runtime(subject, own, runtime, folder, reference)
    return lines


def _on_runtime(
    subject: Subject, files: Sequence[Built], runtime: str, folder: Path, reference: list[dict[str, object]]
) -> list[Line]:
    """Measure files of one format; `reference` gets the float model's answers on the first runtime."""
    lines = []
    timed: list[tuple[Line, Loaded]] = []
    with ExitStack() as stack:
        bench = Bench(folder, stack)
        for file in _for_runtime(files, runtime):
            line = _line(file, runtime)
            lines.append(line)
            try:
                loaded = bench.load(file.format, runtime, file.path)
                answers = bench.run(loaded, _named(subject.test, loaded))
            except EdgeAgentError as error:
                line.failure = str(error)
                continue
            if not reference:
                reference += answers  # type: ignore[arg-type]
            line.score.append(subject.score(answers, reference))  # type: ignore[arg-type]
            timed.append((line, loaded))
        samples = [_named(subject.test[:1], loaded)[0] for _, loaded in timed]
        measured = bench.measure_each([loaded for _, loaded in timed], samples)
        for (line, _), found in zip(timed, measured, strict=True):
            line.latency_ms.append(found.latency_ms)
            line.memory_bytes.append(found.memory_bytes)
    return lines


def _for_runtime(files: Sequence[Built], runtime: str) -> list[Built]:
    """Return one file a variant: the one that is offered to the runtime, else the first.

    What is not offered to a runtime is measured there all the same, which checks the converter's verdict.
    """
    best: dict[str, Built] = {}
    for file in files:
        if file.variant not in best or _is_offered(file, runtime) > _is_offered(best[file.variant], runtime):
            best[file.variant] = file
    return sorted(best.values(), key=lambda file: ORDER.index(file.variant))


def _is_offered(file: Built, runtime: str) -> bool:
    return not file.runtimes or any(runtime in name for name in file.runtimes)


def _line(file: Built, runtime: str) -> Line:
    content = file.path.read_bytes()
    return Line(
        file.variant, file.format, runtime, _is_offered(file, runtime), len(content), compressed(content)
    )


def compressed(content: bytes) -> int:
    """Return the bytes that zstd leaves at its highest usual level."""
    import zstandard

    return len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(content))


def _named(samples: Sequence[Sample], loaded: Loaded) -> list[Sample]:
    """Return the samples under the model's own input name where it has one; exporters choose their own."""
    if len(loaded.inputs) != 1:
        return list(samples)
    name = loaded.inputs[0].name
    return [{name: next(iter(sample.values()))} for sample in samples]


def merged(seeds: Sequence[Sequence[Line]]) -> list[Line]:
    """Return one line a variant and runtime, with what was measured with each seed."""
    found: dict[tuple[str, str, str], Line] = {}
    for lines in seeds:
        for line in lines:
            first = found.setdefault((line.format, line.runtime, line.variant), line)
            if first is not line:
                first.score += line.score
                first.latency_ms += line.latency_ms
                first.memory_bytes += line.memory_bytes
    return list(found.values())
