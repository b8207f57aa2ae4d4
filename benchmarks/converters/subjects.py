"""What is measured: a model, the data that the converter gets, the samples that score it, and how."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.converters import data, models
from benchmarks.converters.data import Array, DataSet, Part

Sample = Mapping[str, Array]
Score = Callable[[Sequence[Sample], Sequence[Sample]], float]
"""Points, 0 to 100, of the answers to the first samples, given the float model's answers to the same ones."""

SEARCH = "int8 search"
PRUNED = "pruned int8"
REMEDIES: dict[str, dict[str, Any]] = {
    SEARCH: {"search": True},
    "int8 percentile": {"calibration": "percentile"},
    "int8 entropy": {"calibration": "entropy"},
}
"""What may help where plain int8 loses too much, with the settings of each."""
PER_TENSOR = "dynamic per tensor"
"""Weights with one scale for all channels, as torch's own quantize_dynamic has them."""
CALIBRATION = 256
PRECISIONS = {
    "onnx": ("fp32", "fp16", "dynamic", "int8"),
    "tflite": ("fp32", "fp16", "dynamic", "int8", "int16x8"),
}


@dataclass(frozen=True)
class Subject:
    """One model with its data. Arrays have samples along axis 0 and no axis for a batch beside it."""

    model: Path | Any
    """A file, or a live object of its framework."""
    framework: str
    """onnx, tflite, torch, keras or sklearn."""
    conversion: dict[str, Array]
    """By input name, `x` where there is one; class numbers in `y` where they say how good the model is."""
    test: Sequence[Sample]
    """One run each, with its batch axis of 1."""
    score: Score
    train: dict[str, Array] | None = None
    """What to fine-tune with after pruning."""

    def calibration(self, names: Sequence[str]) -> list[Sample]:
        """Return runs to calibrate with, under a model's own input names."""
        inputs = {name: array[:CALIBRATION] for name, array in self.conversion.items() if name != "y"}
        if self.test[0].keys() != inputs.keys() or len(inputs) != 1:
            # Those of several inputs are stacked, each with the shape of a run.
            return [dict(zip(inputs, arrays, strict=True)) for arrays in zip(*inputs.values(), strict=True)]
        return [{names[0]: next(iter(sample.values()))} for sample in runs(inputs)]


Make = Callable[[int, bool], Subject]


@dataclass(frozen=True)
class Case:
    """A subject to be: how to make it from a seed, what to convert it to, and which targets apply."""

    name: str
    make: Make
    """From a seed, and whether training should be short."""
    formats: tuple[str, ...]
    is_trained: bool = True
    """Whether another seed gives another model."""
    checks: frozenset[str] = field(default_factory=frozenset)
    """Which targets apply: int8, speed, pruned, search, torch."""
    metric: str = "accuracy"

    def variants(self, form: str) -> tuple[str, ...]:
        tensors = form == "onnx" and "torch" in self.checks
        extra = (
            (PER_TENSOR,) * tensors
            + (SEARCH,) * ("search" in self.checks)
            + (PRUNED,) * ("pruned" in self.checks)
        )
        return PRECISIONS[form] + extra


def accuracy(labels: Array) -> Score:
    """Score by the class with the largest value, or by the class that the first output names itself."""

    def score(answers: Sequence[Sample], reference: Sequence[Sample]) -> float:
        known = labels[: len(answers)]
        right = [_class(answer) == label for answer, label in zip(answers, known, strict=True)]
        return 100 * float(np.mean(right))

    return score


def closeness(answers: Sequence[Sample], reference: Sequence[Sample]) -> float:
    """Return 100 less the root mean square error in percent of the output's range, of the worst output."""
    worst = 0.0
    for name in reference[0]:
        want = np.stack([np.asarray(answer[name], np.float64).ravel() for answer in reference])
        got = np.stack([np.asarray(answer[name], np.float64).ravel() for answer in answers])
        worst = max(worst, float(np.sqrt(np.mean((want - got) ** 2))) / (float(np.ptp(want)) or 1.0))
    return 100 * max(0.0, 1 - worst)


def _class(answer: Sample) -> int:
    first = np.asarray(next(iter(answer.values())))
    return int(first.ravel()[0]) if first.size == 1 else int(np.argmax(first))


def runs(inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Return one run a sample, with a batch axis of 1."""
    count = len(next(iter(inputs.values())))
    return [{name: array[index : index + 1] for name, array in inputs.items()} for index in range(count)]


def _subject(model: Any, framework: str, sets: DataSet, arrange: Callable[[Array], Array]) -> Subject:
    def named(part: Part) -> dict[str, Array]:
        return {"x": arrange(part.x), "y": part.y}

    return Subject(
        model=model,
        framework=framework,
        conversion=named(sets.conversion),
        test=runs({"x": arrange(sets.test.x)}),
        score=accuracy(sets.test.y),
        train=named(sets.train),
    )


def _unchanged(x: Array) -> Array:
    return x


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


def digits(framework: str, kind: str, seed: int, quick: bool) -> Subject:
    """Train an `mlp` or `cnn` on scikit-learn's digits."""
    sets = data.digits(seed)
    models.seed_everything(framework, seed)
    epochs = 10 if quick else 30
    if framework == "keras":
        net = models.keras_mlp((8, 8, 1), 10) if kind == "mlp" else models.keras_digits_cnn()
        net = models.train_keras(net, sets.train, epochs, seed, 2e-3, models.as_given)
        return _subject(net, framework, sets, _unchanged)
    net = models.torch_mlp(64, 10) if kind == "mlp" else models.torch_digits_cnn()
    net = models.train_torch(net, sets.train, epochs, seed, 2e-3, models.as_given, models.channels_first)
    return _subject(net, framework, sets, models.channels_first)


def animals(framework: str, seed: int, quick: bool) -> Subject:
    """Train a CNN on animal-mnist."""
    sets = data.animals(seed)
    if quick:
        sets = DataSet(sets.train, sets.conversion, sets.test.first(500))
    models.seed_everything(framework, seed)
    epochs = 4 if quick else 12
    if framework == "keras":
        net = models.keras_animals_cnn()
        net = models.train_keras(net, sets.train, epochs, seed, 3e-3, models.shifted_and_mirrored)
        return _subject(net, framework, sets, _unchanged)
    net = models.train_torch(
        models.torch_animals_cnn(),
        sets.train,
        epochs,
        seed,
        3e-3,
        models.shifted_and_mirrored,
        models.channels_first,
    )
    return _subject(net, framework, sets, models.channels_first)


# From the data set's metres a second squared and radians a second.
_RAW_UNITS = np.array([1 / 9.80665] * 3 + [180 / np.pi] * 3, np.float32)[:, None]


def motions(seed: int, quick: bool, *, raw: bool) -> Subject:
    """Train a 1-D CNN on BasicMotions; `raw` takes g and degrees a second, the units that such chips give.

    In those units rotation is some 400 times the size of acceleration, and one scale of 8 bits for the input
    rounds all acceleration to almost nothing: plain int8 ruins the model, whatever was done to its weights.
    """
    sets = data.motions(seed)
    units = _RAW_UNITS if raw else np.float32(1)
    sets = DataSet(*(Part(part.x * units, part.y) for part in (sets.train, sets.conversion, sets.test)))
    models.seed_everything("torch", seed)
    net = models.train_torch(
        models.torch_motions_cnn(sets.train.x), sets.train, 40, seed, 3e-3, models.as_given, _unchanged
    )
    return _subject(net, "torch", sets, _unchanged)


def classical(kind: str, seed: int, quick: bool) -> Subject:
    """Fit a scikit-learn classifier on the digits."""
    sets = data.digits(seed)
    train = Part(_flat(sets.train.x), sets.train.y)
    return _subject(models.sklearn_classifier(kind, train, seed), "sklearn", sets, _flat)
