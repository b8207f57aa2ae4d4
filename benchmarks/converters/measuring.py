"""Scores, sizes, latencies and memory of the files that were built, each in a worker process of its own."""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.converters.building import Built
from benchmarks.converters.subjects import Sample, Subject
from converters.workers.trials import RUNTIMES, Bench, Loaded
from edge_agent.documents.errors import EdgeAgentError

ZSTD_LEVEL = 19
REFERENCE = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}
FLOAT = "fp32"


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
        for file in files:
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
            line.memory_bytes.append(resident_bytes(loaded.worker.pid))
            timed.append((line, loaded))
        if timed:
            sample = _named(subject.test[:1], timed[0][1])[0]
            latencies = bench.latencies_ms([loaded for _, loaded in timed], sample)
            for (line, _), latency in zip(timed, latencies, strict=True):
                line.latency_ms.append(latency)
    return lines


def _line(file: Built, runtime: str) -> Line:
    content = file.path.read_bytes()
    offered = not file.runtimes or any(runtime in name for name in file.runtimes)
    return Line(file.variant, file.format, runtime, offered, len(content), compressed(content))


def compressed(content: bytes) -> int:
    """Return the bytes that zstd leaves at its highest usual level."""
    import zstandard

    return len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(content))


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process: interpreter, runtime and model together."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


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
