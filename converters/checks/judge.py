"""What the source model answers, and how each candidate compares with it on every runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Sample
from converters.checks import evaluate, metrics
from converters.checks.metrics import OwnMetric, Scorer
from converters.checks.settings import EvaluateSettings
from converters.data import generate
from converters.data.samples import Samples, Targets
from converters.errors import ConversionError, DataError
from converters.formats.sources import SourceModel
from converters.quantize.boundary import Parameters, to_floats, to_integers
from converters.quantize.variants import Candidate
from converters.terms import Advanced
from converters.workers.trials import Bench, Loaded
from edge_agent.documents.errors import EdgeAgentError, ModelLoadError, OperatorError
from edge_agent.documents.tensors import TensorSpec

GOLDEN: Final = 8
MAX_GOLDEN_BYTES: Final = 4 * 2**20
"""Every device downloads the golden samples: with large tensors there are fewer of them, at least one."""
MAX_EVALUATION_BYTES: Final = 256 * 2**20
"""Inputs and answers of the evaluation stay in memory."""

_REPEAT_SLACK: Final = 1e-5
"""How far two runs of the same sample may be apart, in units of the scale: threads add in varying order."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A float model's own answers; the first `golden` samples are the golden ones."""

    source: SourceModel
    loaded: Loaded
    evaluation: Samples
    answers: tuple[Sample, ...]
    golden: int
    scale: Mapping[str, float]
    classifier: bool
    metric: Scorer
    score: float | None
    """Of the answers; None where the metric is agreement."""
    per_class: Mapping[int, float] | None = None
    """Share of each class that is recognised, where the metric reads classes."""
    baseline: "Reference | None" = None
    """The model before it was pruned, with answers to the same samples; None when this is what was trained."""

    @property
    def first_output(self) -> str:
        """The output that classes or values are read from."""
        return evaluate.first_output(self.loaded.outputs)

    @property
    def trained(self) -> "Reference":
        """The model as it was trained, which agreement and losses are told against."""
        return self.baseline or self


@dataclass(slots=True)
class Judged:
    """A candidate with what its runs showed."""

    candidate: Candidate
    failure: str = ""
    """Why no runtime gets it right; empty when one does."""
    loaded: Loaded | None = None
    """In its own reference runtime."""
    runtimes: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    """Runtimes that it is not offered to, with the reason."""
    golden_errors: dict[str, float] = field(default_factory=dict)
    agreement: float | None = None
    """With the model as it was trained."""
    score: float | None = None
    """By the reference's metric."""
    lost: float | None = None
    """Points of the score, against the model as it was trained."""
    per_class: Mapping[int, float] | None = None
    scale: Mapping[str, float] = field(default_factory=dict)
    """Of integer outputs; empty where they are the float model's."""
    excluded: tuple[str, ...] = ()
    """Layers that the search kept in float."""
    latencies_ms: dict[str, float] = field(default_factory=dict)
    """Median of a run by each runtime that it is offered to, with its version; empty if not timed."""
    memories_bytes: dict[str, int] = field(default_factory=dict)
    """Resident memory that loading and running add, the same way."""

    @property
    def boundary(self) -> Parameters:
        """Scale and zero point of integer inputs and outputs; empty where they are floats."""
        return self.candidate.boundary

    @property
    def latency_ms(self) -> float | None:
        """On its own reference runtime."""
        return None if self.loaded is None else self.latencies_ms.get(self.loaded.runtime)

    @property
    def memory_bytes(self) -> int | None:
        """On its own reference runtime."""
        return None if self.loaded is None else self.memories_bytes.get(self.loaded.runtime)

    def forget(self) -> None:
        """Take back what a runtime showed that did not come through to the end."""
        self.loaded, self.golden_errors, self.scale = None, {}, {}
        self.agreement, self.score, self.lost, self.per_class = None, None, None, None

    def takes(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Return a float model's samples as this candidate takes them."""
        if not self.boundary or self.loaded is None:
            return samples
        return [to_integers(sample, self.loaded.inputs, self.boundary) for sample in samples]

    def gives(self, answers: Sequence[Sample]) -> Sequence[Sample]:
        """Return a float model's answers as this candidate gives them."""
        if not self.boundary or self.loaded is None:
            return answers
        return [to_integers(answer, self.loaded.outputs, self.boundary) for answer in answers]

    def as_floats(self, answers: Sequence[Sample]) -> Sequence[Sample]:
        """Return this candidate's answers in the float model's units."""
        return [to_floats(answer, self.boundary) for answer in answers] if self.boundary else answers


def take_reference(
    bench: Bench,
    source: SourceModel,
    loaded: Loaded,
    samples: Samples,
    advanced: Advanced,
    *,
    settings: EvaluateSettings | None = None,
    function: OwnMetric | None = None,
    baseline: Reference | None = None,
) -> Reference:
    """Run the float model on the samples, and score it by the metric of the settings or the caller's function.

    For a pruned model `baseline` is the model before: then its samples and its metric are used, whatever else
    is given, and the result's own baseline has the same samples in the same order.

    Raises ConversionError when its answers depend on earlier calls or on chance, or are not finite for any
    sample, and when it cannot be run on samples of its own signature; DataError or RequestError when the labels
    suit neither model nor metric.
    """
    if baseline is not None:
        _check_signature(baseline.loaded, loaded)
        samples = baseline.evaluation
    metric = (
        baseline.metric
        if baseline is not None
        else metrics.choose(settings or EvaluateSettings(), samples.targets, function)
    )
    probe = _run_one(bench, loaded, samples)
    room = _bytes(samples.inputs[0]) + _bytes(probe)
    few = samples.take(np.arange(min(len(samples), max(1, MAX_EVALUATION_BYTES // room))))
    answers = bench.run(loaded, few.inputs, advanced=advanced)
    order, classifier = _order(answers, evaluate.first_output(loaded.outputs), metric, samples)
    kept, right = few.take(order), [answers[index] for index in order]
    golden = max(1, min(GOLDEN, len(kept), MAX_GOLDEN_BYTES // room))
    scale = evaluate.scales(loaded.outputs, right, quantized=source.is_quantized)
    _check_repeatable(bench, loaded, kept.inputs[:golden], right[:golden], scale)
    before = None if baseline is None else _taken(baseline, order)
    return _scored(
        Reference(
            source, loaded, kept, tuple(right), golden, scale, classifier, metric, score=None, baseline=before
        )
    )


def judge(
    bench: Bench, reference: Reference, candidate: Candidate, runtimes: tuple[str, ...], advanced: Advanced
) -> Judged:
    """Run a candidate on each runtime; raises OperatorError alone, since all else is the candidate's fault.

    The first runtime that runs it is its reference: it answers all samples; the others answer the golden ones
    and must be close to it.
    """
    judged = Judged(candidate)
    own: list[Sample] = []
    for runtime in runtimes:
        is_first = judged.loaded is None
        try:
            if is_first:
                answers = _run_all(bench, judged, reference, runtime, advanced)
                own = list(answers[: reference.golden])
                _score(judged, reference, answers)
            else:
                _compare(bench, judged, reference, own, runtime)
            judged.runtimes += (runtime,)
        except OperatorError:
            raise
        except EdgeAgentError as error:
            if is_first:
                judged.forget()
            judged.refused[runtime] = str(error).rstrip(".")
    if judged.loaded is None:
        judged.failure = "; ".join(f"{name}: {reason}" for name, reason in judged.refused.items())
    elif pointless := evaluate.meaningless(judged.golden_errors, judged.scale or reference.scale):
        judged.failure = f"its answers have little to do with the source model's: {pointless}"
    return judged


def _run_all(
    bench: Bench, judged: Judged, reference: Reference, runtime: str, advanced: Advanced
) -> Sequence[Sample]:
    """Load the candidate for good, and return its answers to all samples."""
    candidate = judged.candidate
    if candidate.sha256 == reference.source.sha256 and runtime == reference.loaded.runtime_name:
        judged.loaded = reference.loaded
        return reference.answers
    loaded = bench.load(candidate.engine, runtime, candidate.path)
    _check_signature(reference.loaded, loaded, integers=bool(candidate.boundary))
    judged.loaded = loaded
    return bench.run(loaded, judged.takes(reference.evaluation.inputs), advanced=advanced)


def _score(judged: Judged, reference: Reference, answers: Sequence[Sample]) -> None:
    golden, trained, metric = reference.golden, reference.trained, reference.metric
    judged.golden_errors = evaluate.errors(judged.gives(reference.answers[:golden]), answers[:golden])
    if judged.boundary and judged.loaded is not None:
        judged.scale = evaluate.scales(judged.loaded.outputs, answers, quantized=True)
    answers = judged.as_floats(answers)
    judged.agreement = evaluate.agreement(
        trained.answers, answers, reference.first_output, trained.scale, classifier=trained.classifier
    )
    targets = reference.evaluation.targets
    judged.score = metric.score(answers, targets, reference.first_output)
    if judged.score is not None and trained.score is not None:
        judged.lost = metric.drop(trained.score, judged.score)
    if metric.reads_classes and targets is not None:
        judged.per_class = metrics.per_class(answers, targets, reference.first_output)


def _order(
    answers: Sequence[Sample], first: str, metric: Scorer, samples: Samples
) -> tuple[NDArray[np.intp], bool]:
    """Return which answers to keep, in which order, and whether they are those of a classifier."""
    finite = np.flatnonzero([_is_finite(answer) for answer in answers])
    if not finite.size:
        raise ConversionError(
            f"The model answers NaN or infinity to every sample{_hint(samples)}; it cannot be checked like "
            "that."
        )
    right = [answers[index] for index in finite]
    classifier = metric.reads_classes or evaluate.is_classifier(right, first)
    return finite[evaluate.clearest_first(right, first)] if classifier else finite, classifier


def _scored(reference: Reference) -> Reference:
    """Return the reference with the scores of its answers."""
    targets, first, metric = reference.evaluation.targets, reference.first_output, reference.metric
    if metric.reads_classes and targets is not None:
        _check_classes(targets, first, [answer[first] for answer in reference.answers])
    score = metric.score(reference.answers, targets, first)
    if score is not None and not np.isfinite(score):
        raise DataError(f"The float model's {metric.name} is {score}; give labels and a metric that suit it.")
    per_class = (
        metrics.per_class(reference.answers, targets, first)
        if metric.reads_classes and targets is not None
        else None
    )
    return replace(reference, score=score, per_class=per_class)


def _check_classes(targets: Targets, first: str, answers: Sequence[NDArray[Any]]) -> None:
    count = metrics.class_count(answers[0])
    last = targets.max() if count is None else count - 1
    if not 0 <= targets.min() <= targets.max() <= last:
        raise DataError(
            f"The labels 'y' go from {targets.min()} to {targets.max()}, but output '{first}' has "
            f"{answers[0].size} values; number the classes from 0, or take a metric that suits the labels."
        )
    if metrics.is_probability(answers[0]) and not all(0 <= answer.min() <= 1 for answer in answers):
        raise DataError(
            f"Output '{first}' is one value and no probability of class 1, so no class can be read from it; "
            "end the model with a sigmoid, or take another metric."
        )


def _taken(reference: Reference, order: NDArray[np.intp]) -> Reference:
    """Return the reference with these samples alone, in this order."""
    answers = tuple(reference.answers[index] for index in order)
    return _scored(replace(reference, evaluation=reference.evaluation.take(order), answers=answers))


def _compare(bench: Bench, judged: Judged, reference: Reference, own: list[Sample], runtime: str) -> None:
    """Run the golden samples on another runtime; raises ModelLoadError when it is far off."""
    inputs = judged.takes(reference.evaluation.inputs[: reference.golden])
    scale = judged.scale or reference.scale
    with bench.brief() as brief:
        loaded = brief.load(judged.candidate.engine, runtime, judged.candidate.path)
        _check_signature(reference.loaded, loaded, integers=bool(judged.boundary))
        answers = brief.run(loaded, inputs)
    apart = evaluate.errors(own, answers)
    wrong = evaluate.same_answers(judged.golden_errors, apart, scale, judged.candidate.precision)
    if wrong:
        raise ModelLoadError(f"{loaded.runtime} gets it wrong: {wrong}.")
    seen = evaluate.errors(judged.gives(reference.answers[: reference.golden]), answers)
    judged.golden_errors = {name: max(error, seen[name]) for name, error in judged.golden_errors.items()}


def _run_one(bench: Bench, loaded: Loaded, samples: Samples) -> Sample:
    try:
        return bench.run(loaded, samples.inputs[:1])[0]
    except ModelLoadError as error:
        raise ConversionError(f"{str(error).rstrip('.')}{_hint(samples)}.") from error


def _hint(samples: Samples) -> str:
    if not samples.generated:
        return ""
    return (
        " with generated inputs (floats 0 to 1, integers 0 to 255, free dimensions "
        f"{generate.FREE_DIMENSION}): give real ones with --data, or say what it takes with --range "
        "NAME=LOW:HIGH and --shape NAME=1,3,48,320"
    )


def _check_repeatable(
    bench: Bench,
    loaded: Loaded,
    inputs: tuple[Sample, ...],
    answers: Sequence[Sample],
    scale: Mapping[str, float],
) -> None:
    again = bench.run(loaded, inputs, backwards=True)
    for name, error in evaluate.errors(answers, again).items():
        if not error <= _REPEAT_SLACK * scale[name]:
            raise ConversionError(
                f"The model gives different answers to the same input (output '{name}'): it keeps state "
                "between calls or draws random numbers; export it in inference mode, with its state as inputs "
                "and outputs."
            )


def _check_signature(source: Loaded, other: Loaded, *, integers: bool = False) -> None:
    for kind, want, got in (
        ("inputs", source.inputs, other.inputs),
        ("outputs", source.outputs, other.outputs),
    ):
        if len(want) != len(got) or not all(
            _fits(one, two, integers=integers) for one, two in zip(want, got, strict=True)
        ):
            raise ModelLoadError(f"Its {kind} are not those of the source model.")


def _fits(want: TensorSpec, got: TensorSpec, *, integers: bool) -> bool:
    # A quantizer's shape inference may know a dimension that the source leaves free.
    return (
        (want.name, len(want.shape)) == (got.name, len(got.shape))
        and (integers or want.datatype == got.datatype)
        and all(-1 in (a, b) or a == b for a, b in zip(want.shape, got.shape, strict=True))
    )


def _is_finite(answer: Sample) -> bool:
    return all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in answer.values())


def _bytes(sample: Sample) -> int:
    return max(1, sum(array.nbytes for array in sample.values()))
