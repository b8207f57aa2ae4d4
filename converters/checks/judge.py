"""What the source model answers, and how each candidate compares with it on every runtime."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from converters.arrays import Sample
from converters.checks import evaluate
from converters.data import sampling
from converters.data.sampling import Samples
from converters.errors import ConversionError
from converters.formats.sources import SourceModel
from converters.quantize.variants import Candidate
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

Advanced = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Reference:
    """The source model's own answers; the first `golden` samples are the golden ones."""

    source: SourceModel
    loaded: Loaded
    evaluation: Samples
    answers: tuple[Sample, ...]
    golden: int
    scale: Mapping[str, float]
    classifier: bool
    accuracy: float | None

    @property
    def first_output(self) -> str:
        """The output that classes are read from."""
        return self.loaded.outputs[0].name


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
    accuracy: float | None = None
    latency_ms: float | None = None
    memory_bytes: int | None = None
    latencies_ms: dict[str, float] = field(default_factory=dict)
    """By each runtime that it is offered to, with its version."""
    memories_bytes: dict[str, int] = field(default_factory=dict)
    """The same for the memory."""


def take_reference(
    bench: Bench, source: SourceModel, loaded: Loaded, samples: Samples, advanced: Advanced
) -> Reference:
    """Run the source model on the samples.

    Raises ConversionError when its answers depend on earlier calls or on chance, or are not finite for any
    sample, and when it cannot be run on samples of its own signature.
    """
    probe = _run_one(bench, loaded, samples)
    room = _bytes(samples.inputs[0]) + _bytes(probe)
    few = samples.take(np.arange(min(len(samples), max(1, MAX_EVALUATION_BYTES // room))))
    answers = bench.run(loaded, few.inputs, advanced=advanced)
    finite = np.flatnonzero([_is_finite(answer) for answer in answers])
    if not finite.size:
        raise ConversionError(
            f"The model answers NaN or infinity to every sample{_hint(samples)}; it cannot be checked like "
            "that."
        )
    kept, right = few.take(finite), [answers[index] for index in finite]
    first = loaded.outputs[0].name
    classifier = evaluate.is_classifier(right, first, kept.labels)
    if classifier:
        order = evaluate.clearest_first(right, first)
        kept, right = kept.take(order), [right[index] for index in order]
    golden = max(1, min(GOLDEN, len(kept), MAX_GOLDEN_BYTES // room))
    scale = evaluate.scales(loaded.outputs, right, quantized=source.is_quantized)
    _check_repeatable(bench, loaded, kept.inputs[:golden], right[:golden], scale)
    accuracy = None if kept.labels is None else evaluate.accuracy(right, first, kept.labels)
    return Reference(source, loaded, kept, tuple(right), golden, scale, classifier, accuracy)


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
        try:
            if judged.loaded is None:
                judged.loaded, answers = _run_all(bench, reference, candidate, runtime, advanced)
                own = list(answers[: reference.golden])
                _score(judged, reference, answers)
            else:
                _compare(bench, judged, reference, own, runtime)
            judged.runtimes += (runtime,)
        except OperatorError:
            raise
        except EdgeAgentError as error:
            judged.refused[runtime] = str(error).rstrip(".")
    if judged.loaded is None:
        judged.failure = "; ".join(f"{name}: {reason}" for name, reason in judged.refused.items())
    elif pointless := evaluate.meaningless(judged.golden_errors, reference.scale):
        judged.failure = f"its answers have little to do with the source model's: {pointless}"
    return judged


def _run_all(
    bench: Bench, reference: Reference, candidate: Candidate, runtime: str, advanced: Advanced
) -> tuple[Loaded, tuple[Sample, ...]]:
    if candidate.sha256 == reference.source.sha256 and runtime == reference.loaded.runtime_name:
        return reference.loaded, reference.answers
    loaded = bench.load(candidate.engine, runtime, candidate.path)
    _check_signature(reference.loaded, loaded)
    return loaded, tuple(bench.run(loaded, reference.evaluation.inputs, advanced=advanced))


def _score(judged: Judged, reference: Reference, answers: tuple[Sample, ...]) -> None:
    golden = reference.golden
    judged.golden_errors = evaluate.errors(reference.answers[:golden], answers[:golden])
    judged.agreement = evaluate.agreement(
        reference.answers,
        answers,
        reference.first_output,
        reference.scale,
        classifier=reference.classifier,
    )
    if reference.evaluation.labels is not None:
        judged.accuracy = evaluate.accuracy(answers, reference.first_output, reference.evaluation.labels)


def _compare(bench: Bench, judged: Judged, reference: Reference, own: list[Sample], runtime: str) -> None:
    """Run the golden samples on another runtime; raises ModelLoadError when it is far off."""
    inputs = reference.evaluation.inputs[: reference.golden]
    with bench.brief() as brief:
        loaded = brief.load(judged.candidate.engine, runtime, judged.candidate.path)
        _check_signature(reference.loaded, loaded)
        answers = brief.run(loaded, inputs)
    apart = evaluate.errors(own, answers)
    wrong = evaluate.same_answers(judged.golden_errors, apart, reference.scale, judged.candidate.precision)
    if wrong:
        raise ModelLoadError(f"{loaded.runtime} gets it wrong: {wrong}.")
    seen = evaluate.errors(reference.answers[: reference.golden], answers)
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
        f"{sampling.FREE_DIMENSION}): give real ones with --data, or say what it takes with --range "
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


def _check_signature(source: Loaded, other: Loaded) -> None:
    for kind, want, got in (
        ("inputs", source.inputs, other.inputs),
        ("outputs", source.outputs, other.outputs),
    ):
        if len(want) != len(got) or not all(map(_fits, want, got)):
            raise ModelLoadError(f"Its {kind} are not those of the source model.")


def _fits(want: TensorSpec, got: TensorSpec) -> bool:
    # A quantizer's shape inference may know a dimension that the source leaves free.
    return (want.name, want.datatype, len(want.shape)) == (got.name, got.datatype, len(got.shape)) and all(
        -1 in (a, b) or a == b for a, b in zip(want.shape, got.shape, strict=True)
    )


def _is_finite(answer: Sample) -> bool:
    return all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in answer.values())


def _bytes(sample: Sample) -> int:
    return max(1, sum(array.nbytes for array in sample.values()))
