"""Two models side by side: what differs in the files, and how far apart their answers are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from converters import package
from converters.arrays import Sample
from converters.checks import evaluate, metrics
from converters.checks.judge import MAX_EVALUATION_BYTES
from converters.checks.metrics import Scorer
from converters.checks.settings import EvaluateSettings
from converters.data.fitting import samples_of
from converters.data.generate import generate
from converters.data.read import read_columns
from converters.data.samples import Samples
from converters.data.settings import GENERATED, DataSettings, Range
from converters.errors import ConversionError, DataError
from converters.inspection.matching import LayerPair, match_layers, match_tensors, merged, signature_differences
from converters.inspection.models import Inspected, choose_variant, find_package, inspect_model
from converters.workers.trials import Bench, Loaded, Measurement
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.manifest import Manifest, Variant


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: a model file, or a variant of a package."""

    title: str
    model: Inspected
    manifest: Manifest | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What its manifest says was measured when it was built."""

    def as_json(self) -> dict[str, Any]:
        """Return everything but the layers, which are paired in the comparison, as plain values."""
        content = {key: value for key, value in self.model.as_json().items() if key != "layers"}
        return {"title": self.title, **content, "metrics": dict(self.metrics)}


@dataclass(frozen=True, slots=True)
class Given:
    """What to run both on."""

    data: Path | None = None
    """As `edge-convert build` takes it; samples are generated without it."""
    ranges: Mapping[str, Range] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    samples: int = GENERATED


@dataclass(frozen=True, slots=True)
class Ran:
    """What running both on the same samples showed; pairs are (A, B)."""

    samples: int
    generated: bool
    runtimes: tuple[str, str]
    agreement: float
    """0 to 1; see `converters.checks.evaluate`."""
    is_classifier: bool
    errors: Mapping[str, float]
    """Largest absolute difference by A's output names."""
    scales: Mapping[str, float]
    """Largest minus smallest value of A's answers, by output."""
    metric: Scorer
    """What the scores are of: accuracy or mae by the labels, agreement without any."""
    scores: tuple[float, float] | None
    """None without labels."""
    measured: tuple[Measurement, Measurement]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was found."""

    a: Side
    b: Side
    signature: tuple[str, ...]
    """Differences in inputs and outputs, one sentence each."""
    operators: Mapping[str, tuple[int, int]]
    """Counts of the operators that differ, (A, B)."""
    layers: tuple[LayerPair, ...]
    """The largest differences first."""
    ran: Ran | None
    not_run: str = ""
    """Why they were not run on the same samples, in a sentence."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values.

        Keys: `a` and `b` as from `inspect` with `title` and `metrics`; `signature` [sentence]; `operators`
        {type: [A, B]}; `layers` [{name, operator, a_bytes, b_bytes, a_parameters, b_parameters}]; `variants`
        [{label, a, b}] with {size_bytes, metrics} or null each, for two packages; `run` {samples, generated,
        runtimes, agreement, is_classifier, errors, scales, metric, scores, measured} or null; `not_run`.
        """
        return {
            "a": self.a.as_json(),
            "b": self.b.as_json(),
            "signature": list(self.signature),
            "operators": {name: list(counts) for name, counts in self.operators.items()},
            "layers": [asdict(pair) for pair in self.layers],
            "variants": [
                {"label": label, "a": _plain(one), "b": _plain(other)} for label, one, other in self.variants()
            ],
            "run": None if self.ran is None else _plain_run(self.ran),
            "not_run": self.not_run,
        }

    def variants(self) -> list[tuple[str, Variant | None, Variant | None]]:
        """Return the variants of two packages by what they are called, in A's order; none for plain models."""
        if self.a.manifest is None or self.b.manifest is None:
            return []
        one, other = ({_label(v): v for v in side.variants} for side in (self.a.manifest, self.b.manifest))
        return [(label, one.get(label), other.get(label)) for label in dict.fromkeys((*one, *other))]


_PLAIN: Final = "{path} ({engine} {precision})"


def read_side(path: Path, precision: str | None, bench: Bench, temporary: Path) -> Side:
    """Read a model file or a package's variant; raises like `read_source`, and for what is no package."""
    found = find_package(path)
    if found is None:
        model = inspect_model(path, bench)
        return Side(_PLAIN.format(path=path, engine=model.engine, precision=model.precision), model)
    folder, manifest = found
    variant = choose_variant(folder, manifest, precision)
    model = inspect_model(package.plain_blob(folder, variant.file, temporary / variant.file.sha256), bench)
    title = f"{manifest.name} {manifest.version} ({_label(variant)})"
    return Side(title, model, manifest, variant.metrics)


def compare(a: Side, b: Side, bench: Bench, given: Given) -> Comparison:
    """Compare the files and, where both take the same inputs, their answers.

    Raises DataError when data, ranges or shapes that were given do not fit; why they cannot be run otherwise is
    part of what is returned.
    """
    counts = {name: (a.model.operators.get(name, 0), b.model.operators.get(name, 0)) for name in _types(a, b)}
    ran, not_run = None, ""
    try:
        ran = _run(a, b, bench, given)
    except DataError as error:
        if given.data is not None or given.ranges or given.shapes:
            raise
        not_run = str(error)
    except EdgeAgentError as error:
        not_run = str(error)
    return Comparison(
        a,
        b,
        tuple(signature_differences(a.model, b.model)),
        {name: pair for name, pair in counts.items() if pair[0] != pair[1]},
        tuple(match_layers(a.model.layers, b.model.layers)),
        ran,
        not_run,
    )


def _run(a: Side, b: Side, bench: Bench, given: Given) -> Ran:
    one, other = _load(a, bench), _load(b, bench)
    inputs = match_tensors("input", one.inputs, other.inputs)
    outputs = match_tensors("output", one.outputs, other.outputs)
    specs = merged(one.inputs, other.inputs)
    if given.data is None:
        samples = generate(specs, given.ranges, given.shapes, given.samples)
    else:
        settings = DataSettings(path=str(given.data))
        samples = samples_of(read_columns(settings, limit=settings.evaluation_samples), specs)
    samples = _bounded(samples)
    want = bench.run(one, samples.inputs)
    renamed = [{inputs[name]: array for name, array in sample.items()} for sample in samples.inputs]
    got = [{name: answer[outputs[name]] for name in outputs} for answer in bench.run(other, renamed)]
    return _judged(one, other, samples, want, got, _measured(bench, (one, other), samples, renamed))


def _judged(
    one: Loaded,
    other: Loaded,
    samples: Samples,
    want: Sequence[Sample],
    got: Sequence[Sample],
    measured: tuple[Measurement, Measurement],
) -> Ran:
    first = evaluate.first_output(one.outputs)
    metric = metrics.choose(EvaluateSettings(), samples.targets)
    scale = evaluate.scales(one.outputs, want, quantized=False)
    classifier = metric.reads_classes or evaluate.is_classifier(want, first)
    scores = tuple(metric.score(answers, samples.targets, first) for answers in (want, got))
    return Ran(
        samples=len(samples),
        generated=samples.generated,
        runtimes=(one.runtime, other.runtime),
        agreement=evaluate.agreement(want, got, first, scale, classifier=classifier),
        is_classifier=classifier,
        errors=evaluate.errors(want, got),
        scales=scale,
        metric=metric,
        scores=None if scores[0] is None or scores[1] is None else (scores[0], scores[1]),
        measured=measured,
    )


def _measured(
    bench: Bench, pair: tuple[Loaded, Loaded], samples: Samples, renamed: Sequence[Sample]
) -> tuple[Measurement, Measurement]:
    """Measure both in turns on one sample, which each has under its own names."""
    one, other = bench.measure_each(pair, (samples.inputs[0], renamed[0]))
    return one, other


def _load(side: Side, bench: Bench) -> Loaded:
    if not side.model.runs_on:
        reasons = "; ".join(str(found).rstrip(".") for found in side.model.runtimes.values())
        raise ConversionError(f"They were not run, since nothing here runs {side.title}: {reasons}.")
    return bench.load(side.model.engine, side.model.runs_on[0], side.model.path)


def _bounded(samples: Samples) -> Samples:
    room = max(1, sum(array.nbytes for array in samples.inputs[0].values()))
    most = max(1, MAX_EVALUATION_BYTES // room)
    return samples.take(np.arange(min(len(samples), most)))


def _types(a: Side, b: Side) -> list[str]:
    return sorted({*a.model.operators, *b.model.operators})


def _label(variant: Variant) -> str:
    architectures = variant.requires.architectures
    return f"{variant.engine} {variant.precision}" + (f" ({', '.join(architectures)})" if architectures else "")


def _plain_run(ran: Ran) -> dict[str, Any]:
    content = {entry.name: getattr(ran, entry.name) for entry in fields(ran)}
    return content | {"metric": ran.metric.name, "measured": [asdict(one) for one in ran.measured]}


def _plain(variant: Variant | None) -> dict[str, Any] | None:
    if variant is None:
        return None
    return {"size_bytes": variant.file.size_bytes, "metrics": dict(variant.metrics)}
