"""Scores, sizes, latencies and memory of the files that were built, each in a worker process of its own."""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.converters.building import FLOAT, Built
from benchmarks.converters.subjects import PER_TENSOR, PRUNED, SEARCH, Sample, Subject
from converters.workers.trials import RUNTIMES, Bench, Loaded
from edge_agent.documents.errors import EdgeAgentError

ZSTD_LEVEL = 19
ORDER = (
    FLOAT,
    "fp16",
    "dynamic",
    PER_TENSOR,
    "int8",
    SEARCH,
    "int8 percentile",
    "int8 entropy",
    "int16x8",
    PRUNED,
)
"""The float model first, whose answers the others are compared with."""
REFERENCE = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}

SLOW_S = 0.1
"""Runs of tflite-runtime, whose int8 is slow on x86, are not timed beyond this."""
SLOW_SAMPLES = 100
SLOW_BUDGET_S = 20.0
"""tflite-runtime answers this many samples, or what it manages in this time, at least eight."""
REPEATS = 3

_TRIES = 5


@dataclass
class Line:
    """What was measured of one variant on one runtime, over the seeds."""

    variant: str
    format: str
    runtime: str
    note: str
    """What is odd about it: not offered to this runtime, or refused."""
    size_bytes: int
    compressed_bytes: int
    score: list[float] = field(default_factory=list)
    """Points, one a seed."""
    base: list[float] = field(default_factory=list)
    """Points of the float model for the same samples, one a seed."""
    latency_ms: float | None = None
    """Of the first seed's file."""
    memory_bytes: int | None = None
    failure: str = ""

    @property
    def mean_score(self) -> float | None:
        return statistics.fmean(self.score) if self.score else None

    @property
    def mean_base(self) -> float | None:
        return statistics.fmean(self.base) if self.base else None

    @property
    def lost(self) -> float | None:
        """Points lost against the float model, seed by seed."""
        return self.mean_base - self.mean_score if self.base and self.score else None  # type: ignore[operator]


@dataclass(frozen=True)
class Timing:
    """What running one file takes; None where it was not measured."""

    variant: str
    format: str
    runtime: str
    latency_ms: float | None
    memory_bytes: int | None


def score(subject: Subject, files: Sequence[Built], folder: Path, runtimes: Sequence[str]) -> list[Line]:
    """Run the samples through every file on every runtime of its format."""
    lines = []
    for form in dict.fromkeys(file.format for file in files):
        own = [file for file in files if file.format == form]
        reference: list[Sample] = []
        for runtime in RUNTIMES[form]:
            if runtime in runtimes:
                lines += [
                    _scored(subject, file, runtime, folder, reference) for file in for_runtime(own, runtime)
                ]
    return lines


def _scored(subject: Subject, file: Built, runtime: str, folder: Path, reference: list[Sample]) -> Line:
    """Score one file on one runtime; `reference` gets the float model's answers, which come first."""
    line = _line(file, runtime)
    with ExitStack() as stack:
        bench = Bench(folder, stack)
        try:
            loaded = bench.load(file.format, runtime, file.path)
            answers = _answers(bench, loaded, subject.test)
        except EdgeAgentError as error:
            line.failure = str(error)
            return line
    if not reference:
        reference += answers
    known = reference[: len(answers)]
    line.score.append(subject.score(answers, known))
    line.base.append(subject.score(known, known))
    return line


def _answers(bench: Bench, loaded: Loaded, test: Sequence[Sample]) -> list[Sample]:
    samples = named(test, loaded)
    if loaded.runtime_name == "tflite-runtime":
        bench.run(loaded, samples[:1])
        begin = time.perf_counter()
        bench.run(loaded, samples[:1])
        takes_s = time.perf_counter() - begin
        samples = samples[: min(SLOW_SAMPLES, max(8, int(SLOW_BUDGET_S / takes_s)))]
    return list(bench.run(loaded, samples))


def clock(files: Sequence[Built], sample: Sample, folder: Path) -> list[Timing]:
    """Time every file on every runtime of its format, those of one runtime in turns."""
    found = []
    for form in dict.fromkeys(file.format for file in files):
        own = [file for file in files if file.format == form]
        for runtime in RUNTIMES[form]:
            found += _clocked(for_runtime(own, runtime), runtime, sample, folder)
    return found


def _clocked(files: Sequence[Built], runtime: str, sample: Sample, folder: Path) -> list[Timing]:
    timed: list[tuple[Built, Loaded, Sample]] = []
    with ExitStack() as stack:
        bench = Bench(folder, stack)
        for file in files:
            try:
                loaded = bench.load(file.format, runtime, file.path)
                own = named([sample], loaded)[0]
                if not _is_slow(bench, loaded, own):
                    timed.append((file, loaded, own))
            except EdgeAgentError:
                continue
        return _timings(bench, timed, runtime)


def _timings(bench: Bench, timed: Sequence[tuple[Built, Loaded, Sample]], runtime: str) -> list[Timing]:
    models, samples = [one for _, one, _ in timed], [one for _, _, one in timed]
    if not models:
        return []
    first = bench.measure_each(models, samples)
    # The files of a format have one signature.
    again = [bench.latencies_ms(models, samples[0]) for _ in range(REPEATS - 1)]
    latencies = zip(*([one.latency_ms for one in first], *again), strict=True)
    return [
        Timing(file.variant, file.format, runtime, statistics.median(times), one.memory_bytes)
        for (file, _, _), one, times in zip(timed, first, latencies, strict=True)
    ]


def _is_slow(bench: Bench, loaded: Loaded, sample: Sample) -> bool:
    """Say whether a run takes over SLOW_S at its best, with its exchange of files."""
    if loaded.runtime_name != "tflite-runtime":
        return False
    for _ in range(_TRIES):
        begin = time.perf_counter()
        bench.run(loaded, [sample])
        if time.perf_counter() - begin <= SLOW_S:
            return False
    return True


def for_runtime(files: Sequence[Built], runtime: str) -> list[Built]:
    """Return one file a variant: the one that is offered to the runtime, else the first.

    What is not offered to a runtime is measured there all the same, which checks the converter's verdict.
    """
    best: dict[str, Built] = {}
    for file in files:
        if file.variant not in best or is_offered(file, runtime) > is_offered(best[file.variant], runtime):
            best[file.variant] = file
    return sorted(best.values(), key=lambda file: ORDER.index(file.variant))


def is_offered(file: Built, runtime: str) -> bool:
    return not file.runtimes or any(runtime in name for name in file.runtimes)


def _line(file: Built, runtime: str) -> Line:
    content = file.path.read_bytes()
    note = file.note or ("" if is_offered(file, runtime) else "not offered to it")
    return Line(file.variant, file.format, runtime, note, len(content), compressed(content))


def compressed(content: bytes) -> int:
    """Return the bytes that zstd leaves at its highest usual level."""
    import zstandard

    return len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(content))


def named(samples: Sequence[Sample], loaded: Loaded) -> list[Sample]:
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
                first.base += line.base
    return list(found.values())
