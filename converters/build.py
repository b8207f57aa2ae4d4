"""From a model file to a packaged version: the Python call behind the command, and the order of its steps."""

import hashlib
import os
import platform
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from converters import arrays, assemble
from converters.assemble import Identity
from converters.checks import evaluate
from converters.checks.gate import DEFAULT_MAX_DROP, Gate
from converters.checks.judge import Judged, Reference, judge, take_reference
from converters.data import sampling
from converters.data.sampling import Range, Samples
from converters.errors import ConversionError, DataError
from converters.formats.sources import SourceModel, read_source
from converters.package import describe, mapping_os_errors, write_package
from converters.quantize import variants
from converters.quantize.variants import Candidate
from converters.report import Metric, Package, Report, VariantRow
from converters.workers.trials import Bench, Loaded, Measurement, installed_runtimes
from edge_agent.documents.errors import EdgeAgentError, NotFoundError, RequestError
from edge_agent.documents.manifest import Manifest, ModelName, Precision, Version

Progress = Callable[[str, float], None]
"""Hears what is being done and the share of the whole that is done, 0 to 1."""

_TOOLS: Final = (
    "edge-inference-agent",
    "numpy",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
    "tflite-runtime",
    "litert-quantizer",
)
_EPOCH: Final = "SOURCE_DATE_EPOCH"


@dataclass(frozen=True, slots=True)
class Options:
    """How to convert; see `convert` for each."""

    precisions: tuple[str, ...] | None = None
    data: Path | Mapping[str, arrays.Array] | None = None
    ranges: Mapping[str, Range] | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = None
    samples: int = sampling.GENERATED
    order: tuple[str, ...] | None = None
    gate: Gate = field(default_factory=Gate)


def convert(
    model: Path | str,
    *,
    name: str | None = None,
    version: str | None = None,
    precisions: Sequence[str] | None = None,
    data: Path | str | Mapping[str, arrays.Array] | None = None,
    labels: Path | str | Sequence[str] | None = None,
    out: Path | str = "packages",
    max_drop: float = DEFAULT_MAX_DROP,
    max_size_bytes: int | None = None,
    max_latency_ms: float | None = None,
    order: Sequence[str] | None = None,
    ranges: Mapping[str, Range] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    samples: int = sampling.GENERATED,
    progress: Progress = lambda step, share: None,
) -> Package:
    """Convert an ONNX or TFLite file, check every variant on this host's runtimes, and package the good ones.

    - `name` defaults to the file's name, `version` to the UTC time `YYYYmmdd_HHMMSS`.
    - `precisions`, among fp32, fp16, dynamic and int8, defaults to the source as it is and dynamic. One that is
      asked for and fails is an error; one that is only a default is left out.
    - `data`: an .npz file, or arrays by input name, samples along axis 0; labels (class numbers) in `y`.
    - `labels`: class names, or a text file with one a line.
    - `ranges` (low, high by input name) and `shapes` say what to generate without data, `samples` how many.
    - `order`: precisions, best first; the default is what is fastest here, then smallest.

    With SOURCE_DATE_EPOCH set, the same inputs and version give the same bytes: that is the timestamp,
    latencies stay out of the manifest, and the default order is by size.

    Raises a subclass of EdgeAgentError with one sentence; then nothing is left behind.
    """
    source = read_source(Path(model))
    now = _timestamp()
    identity = Identity(
        name=_checked(ModelName, "name", name or _slug(source.path)),
        version=_checked(Version, "version", version or now.strftime("%Y%m%d_%H%M%S")),
        timestamp=now,
        labels=_class_names(labels),
    )
    options = Options(
        precisions=None if precisions is None else tuple(precisions),
        data=Path(data) if isinstance(data, str) else data,
        ranges=ranges,
        shapes=shapes,
        samples=samples,
        order=None if order is None else tuple(order),
        gate=Gate(max_drop, max_size_bytes, max_latency_ms),
    )
    with ExitStack() as stack, mapping_os_errors(Path(tempfile.gettempdir())):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-convert-")))
        return _Conversion(source, identity, options, Bench(folder, stack), folder, progress).package(Path(out))


class _Conversion:
    """One conversion under way: its inputs, and the steps in their order."""

    def __init__(
        self,
        source: SourceModel,
        identity: Identity,
        options: Options,
        bench: Bench,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._source = source
        self._identity = identity
        self._options = options
        self._bench = bench
        self._folder = folder
        self._progress = progress
        self._notes: list[str] = []

    def package(self, out: Path) -> Package:
        """Do all steps and return the package."""
        options, source = self._options, self._source
        runtimes = installed_runtimes(source.engine)
        precisions = variants.wanted(source, options.precisions, has_data=options.data is not None)
        self._check_order(precisions)
        self._progress("load the source model", 0.02)
        loaded = self._load_source(runtimes)
        split = self._split(loaded, precisions)
        reference = take_reference(
            self._bench, source, loaded, split.evaluation, self._part("run the source model", 0.05, 0.25)
        )
        self._check_classes(reference)
        self._note_answers(reference)
        skipped, candidates = self._make(precisions, split.calibration)
        judged = self._judge(reference, candidates, runtimes)
        self._progress("measure latency", 0.8)
        self._measure(reference, judged)
        return self._write(out, reference, judged, skipped)

    def _load_source(self, runtimes: tuple[str, ...]) -> Loaded:
        refusals: list[EdgeAgentError] = []
        for runtime in runtimes:
            try:
                return self._bench.load(self._source.engine, runtime, self._source.path)
            except EdgeAgentError as error:
                refusals.append(error)
        raise refusals[0]

    def _split(self, loaded: Loaded, precisions: Sequence[Precision]) -> sampling.Split:
        data = self._options.data
        if data is None:
            generated = sampling.generate(
                loaded.inputs, self._options.ranges or {}, self._options.shapes or {}, self._options.samples
            )
            return sampling.Split(Samples(()), generated)
        samples = (
            sampling.read_data(data, loaded.inputs)
            if isinstance(data, Path)
            else sampling.from_arrays(data, loaded.inputs)
        )
        needs = any(one in variants.NEEDS_DATA and one != self._source.precision for one in precisions)
        return sampling.split(samples, calibrating=needs)

    def _make(
        self, precisions: Sequence[Precision], calibration: Samples
    ) -> tuple[list[VariantRow], list[Candidate]]:
        """Make every file; a default that cannot be made becomes a row, one that was asked for an error."""
        made: list[Candidate] = []
        skipped: list[VariantRow] = []
        for index, precision in enumerate(precisions):
            self._progress(f"make {precision}", 0.25 + 0.25 * index / len(precisions))
            try:
                files = variants.make(self._bench, self._source, precision, calibration.inputs, self._folder)
                if self._options.precisions is None and precision != self._source.precision:
                    self._check_smaller(files)
                made += files
            except ConversionError as error:
                if self._options.precisions is not None:
                    raise
                skipped.append(
                    VariantRow(precision, self._source.engine, (), packaged=False, reason=str(error))
                )
        return skipped, made

    def _check_smaller(self, files: Sequence[Candidate]) -> None:
        if min(file.size_bytes for file in files) >= self._source.size_bytes:
            raise ConversionError("It would not be smaller than the source model.")

    def _judge(
        self, reference: Reference, candidates: Sequence[Candidate], runtimes: tuple[str, ...]
    ) -> list[Judged]:
        judged = []
        for index, candidate in enumerate(candidates):
            begin, end = (0.5 + 0.3 * step / len(candidates) for step in (index, index + 1))
            advanced = self._part(f"check {candidate.precision}", begin, end)
            judged.append(judge(self._bench, reference, candidate, runtimes, advanced))
        return judged

    def _measure(self, reference: Reference, judged: Sequence[Judged]) -> None:
        """Time what runs here as it would on a device of this architecture."""
        here = platform.machine()
        timed = [one for one in judged if one.loaded and one.candidate.architectures in ((), (here,))]
        models = [one.loaded for one in timed if one.loaded]
        sample = reference.evaluation.inputs[0]
        for one, found in zip(timed, self._bench.measure(models, sample), strict=True):
            one.latency_ms, one.memory_bytes = found.latency_ms, found.memory_bytes
            self._note_runtimes(one, found, sample)

    def _note_runtimes(self, one: Judged, own: Measurement, sample: arrays.Sample) -> None:
        """Keep what each runtime takes that a candidate is offered to; the reference runtime's is known."""
        for runtime in one.runtimes:
            with self._bench.brief() as bench:
                if one.loaded is not None and runtime == one.loaded.runtime_name:
                    name, found = one.loaded.runtime, own
                else:
                    other = bench.load(one.candidate.engine, runtime, one.candidate.path)
                    name, found = other.runtime, bench.measure([other], sample)[0]
            one.latencies_ms[name] = found.latency_ms
            one.memories_bytes[name] = found.memory_bytes

    def _write(
        self, out: Path, reference: Reference, judged: Sequence[Judged], skipped: Sequence[VariantRow]
    ) -> Package:
        self._progress("write the package", 0.98)
        reproducible = _EPOCH in os.environ
        verdicts = assemble.verdicts(reference, judged, self._options.gate)
        assemble.check_asked_for(verdicts, [] if self._options.precisions is None else _precisions(judged))
        best = assemble.ordered(verdicts, self._options.order, by_latency=not reproducible)
        golden = self._folder / "golden.npz"
        arrays.write_arrays(golden, _golden(reference), compress=True)
        manifest = assemble.manifest(
            self._identity,
            reference,
            best,
            describe(golden),
            self._metadata(reference),
            with_latency=not reproducible,
        )
        blobs = {manifest.golden.file.sha256: golden} if manifest.golden else {}
        blobs |= {verdict.judged.candidate.sha256: verdict.judged.candidate.path for verdict in best}
        folder, is_new = write_package(out, manifest, blobs)
        rows = (*assemble.rows(reference, verdicts, best), *skipped)
        self._progress("done", 1.0)
        return Package(folder, manifest, self._report(reference, manifest, rows), is_new)

    def _report(self, reference: Reference, manifest: Manifest, rows: tuple[VariantRow, ...]) -> Report:
        return Report(
            name=manifest.name,
            version=manifest.version,
            timestamp=manifest.timestamp,
            framework=manifest.source.framework,
            source_sha256=manifest.source.sha256,
            source_bytes=self._source.size_bytes,
            rows=rows,
            inputs=reference.loaded.inputs,
            outputs=reference.loaded.outputs,
            metric=Metric("agreement" if reference.accuracy is None else "accuracy"),
            float_score=reference.accuracy,
            tools=manifest.metadata["tools"],
            evaluation=manifest.metadata["evaluation"],
            golden_samples=reference.golden,
            gate=self._options.gate,
            notes=tuple(self._notes),
        )

    def _metadata(self, reference: Reference) -> dict[str, Any]:
        data = self._options.data
        own: dict[str, Any] = {"precision": self._source.precision, "size_bytes": self._source.size_bytes}
        if reference.accuracy is not None:
            own["accuracy"] = round(reference.accuracy, 6)
        return {
            "float": own,
            "evaluation": {
                "samples": len(reference.evaluation),
                "data": "generated" if data is None else "given",
                "data_sha256": hashlib.sha256(data.read_bytes()).hexdigest()
                if isinstance(data, Path)
                else None,
                "metric": "accuracy" if reference.accuracy is not None else "agreement",
                "classifier": reference.classifier,
                "max_drop": self._options.gate.max_drop,
            },
            "tools": _versions(),
        }

    def _note_answers(self, reference: Reference) -> None:
        if self._source.is_quantized:
            self._notes.append(
                f"The model was quantized already ({self._source.precision}) and was left alone; what is "
                "compared is the runtimes."
            )
        left = len(reference.answers)
        golden = reference.answers[: reference.golden]
        if len(golden) > 1 and all(error == 0 for error in _spread(golden)):
            what = "generated samples" if reference.evaluation.generated else "golden samples"
            self._notes.append(
                f"The model answers the {what} all alike, so the checks on devices say little; give varied "
                f"samples with --data ({left} were used)."
            )

    def _check_classes(self, reference: Reference) -> None:
        first = reference.answers[0][reference.first_output]
        classes = first.shape[-1] if first.ndim else 1
        names, numbers = len(self._identity.labels), reference.evaluation.labels
        if names not in (0, classes):
            raise RequestError(
                f"There are {names} class names, but output '{reference.first_output}' has {classes} values; "
                "give one name for each, in their order."
            )
        if numbers is not None and not 0 <= numbers.min() <= numbers.max() < first.size:
            raise DataError(
                f"The labels 'y' go from {numbers.min()} to {numbers.max()}, but output "
                f"'{reference.first_output}' has {first.size} values; number the classes from 0."
            )

    def _check_order(self, precisions: Sequence[Precision]) -> None:
        for name in self._options.order or ():
            if name not in precisions:
                raise RequestError(f"--order names '{name}', but the variants are: {', '.join(precisions)}.")

    def _part(self, step: str, begin: float, end: float) -> Callable[[float], None]:
        self._progress(step, begin)
        return lambda share: self._progress(step, begin + (end - begin) * share)


def _golden(reference: Reference) -> dict[str, arrays.Array]:
    count = reference.golden
    return {
        **arrays.named(reference.evaluation.inputs[:count], "input"),
        **arrays.named(reference.answers[:count], "output"),
    }


def _spread(answers: Sequence[arrays.Sample]) -> list[float]:
    return [max(evaluate.errors([answers[0]], [answer]).values()) for answer in answers[1:]]


def _precisions(judged: Sequence[Judged]) -> list[Precision]:
    return list(dict.fromkeys(one.candidate.precision for one in judged))


def _slug(path: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:63].strip("-")


def _checked(kind: Any, what: str, value: str) -> str:
    try:
        return str(TypeAdapter(kind).validate_python(value))
    except ValidationError as error:
        rule = (
            "1 to 63 of a-z, 0-9 and inner hyphens"
            if what == "name"
            else "1 to 64 of letters, digits and _ . + -"
        )
        raise RequestError(f"'{value}' cannot be a {what}: it takes {rule}; give another --{what}.") from error


def _timestamp() -> datetime:
    epoch = os.environ.get(_EPOCH)
    if epoch is None:
        return datetime.now(UTC).replace(microsecond=0)
    try:
        return datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise RequestError(f"{_EPOCH} is '{epoch}'; it should be a number of seconds since 1970.") from error


def _class_names(labels: Path | str | Sequence[str] | None) -> tuple[str, ...]:
    if labels is None:
        return ()
    if not isinstance(labels, (str, Path)):
        return tuple(labels)
    try:
        lines = Path(labels).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(
            f"Cannot read labels from {labels}; give a UTF-8 text file with one name a line."
        ) from error
    return tuple(line.strip() for line in lines if line.strip())


def _versions() -> dict[str, str]:
    found = {}
    for tool in _TOOLS:
        try:
            found[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return found
