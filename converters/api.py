"""`converters.convert`: the Python call behind the command, for files and live objects."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from converters.checks.gate import DEFAULT_MAX_DROP, Gate
from converters.checks.metrics import OwnMetric
from converters.checks.settings import EvaluateSettings
from converters.conversion.build import build
from converters.conversion.preparation import Live
from converters.conversion.recipe import Recipe, checked
from converters.data.live import LiveData
from converters.data.settings import GENERATED, DataSettings, GenerateSettings, Range
from converters.processing.settings import PostprocessSettings, PreprocessSettings
from converters.prune.settings import PruneSettings
from converters.quantize.settings import QuantizeSettings
from converters.report.model import Package
from converters.terms import Format, Progress


def convert(
    model: Any,
    *,
    data: LiveData | Path | str | None = None,
    evaluation: LiveData | Path | str | None = None,
    metric: OwnMetric | str | None = None,
    to: Sequence[Format] | None = None,
    precision: Sequence[str] | None = None,
    name: str | None = None,
    version: str | None = None,
    labels: Path | str | Sequence[str] | None = None,
    out: Path | str = "packages",
    max_drop: float = DEFAULT_MAX_DROP,
    max_size_bytes: int | None = None,
    max_latency_ms: float | None = None,
    min_agreement: float | None = None,
    order: Sequence[str] | None = None,
    ranges: Mapping[str, Range] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    samples: int | None = None,
    quantize: QuantizeSettings | None = None,
    prune: PruneSettings | None = None,
    preprocess: PreprocessSettings | None = None,
    postprocess: PostprocessSettings | None = None,
    evaluate: EvaluateSettings | None = None,
    weights: Path | str = "",
    trust_pickle: bool = False,
    progress: Progress = lambda step, share: None,
) -> Package:
    """Convert a model, check every variant on this host's runtimes, and package the good ones.

    - `model`: the path of an ONNX, TFLite, .keras, .h5, SavedModel, .pt2 or .joblib model; for PyTorch also
      `package.module:factory`, with the state dict in `weights`; or a live Keras, PyTorch or scikit-learn
      model.
    - `data`: a file or folder, a pair of inputs and targets, arrays by input name with the targets in `y`, or a
      callable that returns one of these; samples along axis 0.
    - `evaluation`: samples to evaluate with, given like `data`; the default is a part of `data`.
    - `metric`: a name as in the recipe, or a function of answers by output name, stacked along axis 0, and
      targets, which returns a number, higher is better; it goes before the metric of `evaluate`.
    - `to`: the formats to make, `onnx` and `tflite`; the default is every one that can be made.
    - `precision`: among fp32, fp16, dynamic, int8 and int16x8; the default is the source as it is and dynamic.
      One that is asked for and fails is an error; one that is only a default is left out.
    - `name` defaults to the file's name, `version` to the UTC time `YYYYmmdd_HHMMSS`.
    - `labels`: class names, or a text file with one a line.
    - `ranges` (low, high by input name) and `shapes` say what to generate without data, `samples` how many.
    - `order`: precisions, best first; the default is what is fastest here, then smallest.
    - `quantize`, `prune`, `preprocess`, `postprocess`, `evaluate`: the recipe's sections.

    With SOURCE_DATE_EPOCH set, the same inputs and version give the same bytes: that is the timestamp,
    latencies stay out of what is written, and the default order is by size.

    Raises a subclass of EdgeAgentError with one sentence; then nothing is left behind.
    """
    is_path = isinstance(model, str | Path)
    data_path, live_data = _path_or_live(data)
    evaluation_path, live_evaluation = _path_or_live(evaluation)
    evaluating = evaluate or EvaluateSettings()
    if isinstance(metric, str):
        evaluating = replace(evaluating, metric=metric)
    recipe = Recipe(
        model=str(model) if is_path else "",
        weights=str(weights),
        trust_pickle=trust_pickle,
        name=name,
        version=version,
        labels=_labels(labels),
        out=str(out),
        to=_words(to),
        precision=_words(precision),
        order=_words(order),
        data=DataSettings(path=data_path, evaluation=evaluation_path),
        generate=GenerateSettings(GENERATED if samples is None else samples, ranges or {}, shapes or {}),
        prune=prune,
        quantize=quantize or QuantizeSettings(),
        preprocess=preprocess or PreprocessSettings(),
        postprocess=postprocess or PostprocessSettings(),
        evaluate=evaluating,
        gate=Gate(max_drop, max_size_bytes, max_latency_ms, min_agreement),
    )
    return build(
        checked(recipe, "convert()"),
        live_model=None if is_path else model,
        live=Live(live_data, live_evaluation, metric if callable(metric) else None),
        progress=progress,
    )


def _words(given: Sequence[Any] | None) -> Any:
    """Return names as a tuple, a single one too; what is none is refused when the recipe is checked."""
    return (given,) if isinstance(given, str) else None if given is None else tuple(given)


def _path_or_live(data: LiveData | Path | str | None) -> tuple[str, LiveData | None]:
    return (str(data), None) if isinstance(data, str | Path) else ("", data)


def _labels(labels: Path | str | Sequence[str] | None) -> str | tuple[str, ...] | None:
    if labels is None or isinstance(labels, str):
        return labels
    return str(labels) if isinstance(labels, Path) else tuple(labels)
