"""What a conversion starts from: float files, samples, and what the float model answers to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from converters.checks import evaluate
from converters.checks.judge import Reference, take_reference
from converters.checks.metrics import OwnMetric, is_class_number, is_probability
from converters.conversion import floats, identity
from converters.conversion.floats import Floats
from converters.conversion.identity import Identity
from converters.conversion.recipe import Recipe
from converters.conversion.workshop import Workshop
from converters.data import targets
from converters.data.columns import Columns, divide
from converters.data.fitting import samples_of
from converters.data.generate import generate
from converters.data.live import LiveData
from converters.data.read import read_columns, read_evaluation
from converters.data.samples import Samples, Split
from converters.data.splitting import split
from converters.errors import ConversionError, DataError
from converters.formats.sources import SourceModel, read_source
from converters.processing import processor
from converters.quantize import variants
from converters.terms import Format
from converters.workers.trials import Loaded, installed_runtimes
from edge_agent.documents.errors import RequestError
from edge_agent.documents.manifest import Precision

Wanted = Mapping[Format, tuple[Precision, ...]]
"""The precisions to make, by format."""

_REFERENCE_FIRST: Final[tuple[Format, ...]] = ("onnx", "tflite")
"""Whose answers stand for the float model's where both formats are made: ONNX files take any batch."""


@dataclass(frozen=True, slots=True)
class Live:
    """What a program gives in place of what a recipe names."""

    data: LiveData | None = None
    evaluation: LiveData | None = None
    metric: OwnMetric | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that variants are made of and judged by."""

    identity: Identity
    floats: Floats
    sources: Mapping[Format, SourceModel]
    """What variants are made of: the float files, pruned if that was asked, with processing in the graph."""
    wanted: Wanted
    runtimes: Mapping[Format, tuple[str, ...]]
    calibration: Samples
    reference: Reference
    columns: Columns | None
    """The data that was given; None when samples were generated."""
    evaluation: Columns | None
    """Data that was given for the evaluation alone."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Data:
    """The samples that were given, divided before anything is trained with them."""

    given: Columns | None = None
    training: Columns | None = None
    evaluation: Columns | None = None


def prepare(shop: Workshop, recipe: Recipe, live_model: object | None, live: Live) -> Prepared:
    """Do everything up to the float model's answers; raises a subclass of EdgeAgentError."""
    shop.progress("read the data", 0.0)
    data = _read_data(recipe, live)
    named = identity.identify(
        recipe, _name_of(live_model), () if data.given is None else data.given.class_names
    )
    advanced = shop.part("export the model" if recipe.prune is None else "prune the model", 0.02, 0.2)
    found = floats.float_files(recipe, live_model, data.training, shop, advanced)
    plain = _processed(shop.folder, "plain", found.plain, recipe, named.labels)
    current = _processed(shop.folder, "pruned", found.pruned, recipe, named.labels) if found.pruned else plain
    wanted, notes = _wanted(recipe, current, has_data=data.given is not None)
    _check_order(recipe.order, wanted)
    runtimes = {name: installed_runtimes(name) for name in current}
    first = next(name for name in _REFERENCE_FIRST if name in current)
    loaded = shop.load(current[first], runtimes[first])
    divided = _split(recipe, data, loaded, wanted)
    reference = _reference(
        shop, recipe, first, plain, current, loaded, runtimes[first], divided.evaluation, live.metric
    )
    _check_classes(named, reference)
    return Prepared(
        named,
        found,
        current,
        wanted,
        runtimes,
        divided.calibration,
        reference,
        data.given,
        data.evaluation if recipe.data.evaluation or live.evaluation is not None else None,
        (*found.notes, *notes, *_remarks(reference, data.given, len(divided.evaluation))),
    )


def _read_data(recipe: Recipe, live: Live) -> _Data:
    settings = recipe.data
    if live.data is None and not settings.path:
        if live.evaluation is not None or settings.evaluation:
            raise RequestError(
                "There is data to evaluate with but none to calibrate with; give some with --data, or all of "
                "it there, of which a part is kept for the evaluation."
            )
        return _Data()
    # Fine-tuning takes all there is, everything else a few hundred or thousand.
    limit = None if recipe.prune is not None else settings.calibration_samples + settings.evaluation_samples
    given = read_columns(settings, live.data, limit)
    evaluation = read_evaluation(settings, given, live.evaluation)
    for columns in (given, evaluation):
        _check_rate(recipe, columns)
    if recipe.prune is None:
        return _Data(given, given, evaluation)
    divided = divide(given, evaluation)
    return _Data(given, divided.training, divided.evaluation)


def _check_rate(recipe: Recipe, columns: Columns | None) -> None:
    audio = recipe.preprocess.audio
    if audio is None or columns is None:
        return
    if (rate_hz := columns.rate_hz) not in (None, audio.rate_hz):
        raise DataError(
            f"The .wav files have {rate_hz} Hz, preprocess.audio.rate_hz is {audio.rate_hz}; resample the "
            "files, or set the rate that apps record with."
        )


def _processed(
    folder: Path, kind: str, sources: Mapping[Format, SourceModel], recipe: Recipe, labels: Sequence[str]
) -> dict[Format, SourceModel]:
    """Return the files with pre- and postprocessing in their graphs."""
    settings = processor.Processing(recipe.preprocess, recipe.postprocess, tuple(labels))
    if settings.is_empty:
        return dict(sources)
    settings.check(tuple(sources))
    found = {}
    for name, source in sources.items():
        target = folder / f"{kind}-processed.{name}"
        settings.add(name, source.path, target)
        found[name] = read_source(target)
    return found


def _wanted(
    recipe: Recipe, sources: Mapping[Format, SourceModel], *, has_data: bool
) -> tuple[Wanted, list[str]]:
    """Return what to make of each format; what only one of two cannot have is left out there, with a note.

    Raises ConversionError for a precision that no format can have, RequestError for a name that is none.
    """
    settings = recipe.quantize
    if recipe.precision is None:
        usual = {
            name: variants.wanted(source, None, has_data=has_data, settings=settings)
            for name, source in sources.items()
        }
        _check_ends(recipe, usual)
        return usual, []
    found: dict[Format, list[Precision]] = {name: [] for name in sources}
    notes = []
    for precision in recipe.precision or ("",):
        refusals: list[ConversionError] = []
        for name, source in sources.items():
            asked = (precision,) if precision else ()
            try:
                found[name] += variants.wanted(source, asked, has_data=has_data, settings=settings)
            except ConversionError as error:
                refusals.append(error)
                notes.append(f"There is no {precision} in {name}: {str(error).rstrip('.')}.")
        if len(refusals) == len(sources):
            raise refusals[0]
    _check_ends(recipe, found)
    return {name: tuple(dict.fromkeys(precisions)) for name, precisions in found.items()}, notes


def _check_ends(recipe: Recipe, found: Mapping[Format, Sequence[Precision]]) -> None:
    """Raise RequestError when integer in- and outputs are asked for beside variants that have floats."""
    made = [(name, precision) for name, precisions in found.items() for precision in precisions]
    if recipe.quantize.io != "float" and [precision for _, precision in made] != ["int8"]:
        raise RequestError(
            f"{recipe.quantize.io} in- and outputs change the signature, which all variants of a version "
            "share; ask for --precision int8 alone and one target, --to onnx or --to tflite."
        )


def _check_order(order: Sequence[str] | None, wanted: Wanted) -> None:
    made = list(dict.fromkeys(precision for precisions in wanted.values() for precision in precisions))
    for name in order or ():
        if name not in made:
            raise RequestError(f"--order names '{name}', but the variants are: {', '.join(made)}.")


def _split(recipe: Recipe, data: _Data, loaded: Loaded, wanted: Wanted) -> Split:
    settings = recipe.generate
    if data.training is None:
        drawn = generate(loaded.inputs, settings.ranges, settings.shapes, settings.samples)
        return Split(Samples(()), drawn)
    calibrating = any(one in variants.NEEDS_DATA for precisions in wanted.values() for one in precisions)
    samples = samples_of(data.training, loaded.inputs)
    evaluation = None if data.evaluation is None else samples_of(data.evaluation, loaded.inputs)
    return split(samples, recipe.data, calibrating=calibrating, evaluation=evaluation)


def _reference(
    shop: Workshop,
    recipe: Recipe,
    first: Format,
    plain: Mapping[Format, SourceModel],
    current: Mapping[Format, SourceModel],
    loaded: Loaded,
    runtimes: tuple[str, ...],
    evaluation: Samples,
    metric: OwnMetric | None,
) -> Reference:
    score = partial(take_reference, settings=recipe.evaluate, function=metric)
    advanced = shop.part("run the source model", 0.2, 0.3)
    if current is plain:
        return score(shop.bench, plain[first], loaded, evaluation, advanced)
    trained = shop.load(plain[first], runtimes)
    baseline = score(shop.bench, plain[first], trained, evaluation, advanced)
    return take_reference(shop.bench, current[first], loaded, evaluation, advanced, baseline=baseline)


def _check_classes(named: Identity, reference: Reference) -> None:
    first = reference.answers[0][reference.first_output]
    classes = 2 if is_probability(first) else first.shape[-1] if first.ndim else 1
    names = len(named.labels)
    if names not in (0, classes) and not is_class_number(first):
        raise RequestError(
            f"There are {names} class names, but output '{reference.first_output}' has {classes} values; give "
            "one name for each, in their order."
        )


def _remarks(reference: Reference, given: Columns | None, samples: int) -> list[str]:
    """Return what the caller should know of the source and of the samples, `samples` to evaluate with."""
    found: list[str] = []
    if (left_out := samples - len(reference.evaluation)) > 0:
        found.append(
            f"{left_out} of {samples} samples do not count in the evaluation: the float model answers NaN to "
            "them, or they are more than fits into memory at a time."
        )
    if reference.metric.reads_classes and given is not None and given.classes is not None:
        found += targets.notes(given.classes, given.class_names)
    if reference.source.is_quantized:
        found.append(
            f"The model was quantized already ({reference.source.precision}) and was left alone; what is "
            "compared is the runtimes."
        )
    golden = reference.answers[: reference.golden]
    if len(golden) > 1 and all(error == 0 for error in _spread(golden)):
        what = "generated samples" if reference.evaluation.generated else "golden samples"
        found.append(
            f"The model answers the {what} all alike, so the checks on devices say little; give varied samples "
            f"with --data ({len(reference.answers)} were used)."
        )
    return found


def _spread(answers: Sequence[Any]) -> list[float]:
    return [max(evaluate.errors([answers[0]], [answer]).values()) for answer in answers[1:]]


def _name_of(live: object | None) -> str:
    if live is None:
        return ""
    own = getattr(live, "name", None)
    return own if isinstance(own, str) and own else type(live).__name__
