"""The sweep's way into `converters.convert`, which handles ONNX and TFLite files: what a trial runs."""

from dataclasses import replace
from pathlib import Path

from converters.build import convert
from converters.errors import ConversionError
from converters.formats.sources import read_source
from converters.quantize.settings import QuantizeSettings
from converters.recipe import Recipe
from converters.report import Package
from converters.sweep.trials import PRECISIONS, Facts


def run_trial(recipe: Recipe) -> Package:
    """Make one version as the recipe says; raises EdgeAgentError when it comes to nothing.

    Raises ConversionError for settings that `convert` does not take.
    """
    plain = replace(recipe.quantize, percentile=QuantizeSettings().percentile)
    if recipe.prune is not None or plain != QuantizeSettings():
        raise ConversionError(
            "Pruning, other calibrations than minmax, per-tensor weights, excluded layers and searches are not "
            "available for this model; leave them out of the recipe."
        )
    return convert(
        recipe.model,
        name=recipe.name,
        version=recipe.version,
        precisions=recipe.precision,
        data=recipe.data.path or None,
        labels=recipe.labels,
        out=recipe.out,
        max_drop=recipe.gate.max_drop,
        max_size_bytes=recipe.gate.max_size_bytes,
        max_latency_ms=recipe.gate.max_latency_ms,
        order=recipe.order,
        ranges=recipe.generate.ranges,
        shapes=recipe.generate.shapes,
        samples=recipe.generate.samples,
    )


def facts(recipe: Recipe) -> Facts:
    """Return what the recipe's model allows; raises RequestError or ModelError for what is no model."""
    source = read_source(Path(recipe.model))
    engine = source.engine
    target = next((one for one in PRECISIONS if one == engine), None)
    if target is None:
        raise ConversionError(f"{recipe.model} is for the engine {engine}; give an ONNX or TFLite file.")
    half = ("fp16",) if engine == "tflite" or source.precision == "fp16" else ()
    return Facts(
        formats=(target,),
        precision=source.precision,
        precisions={target: ("fp32", *half, "dynamic", "int8")},
        calibrations={target: ("minmax",)},
        per_tensor=False,
        searches=False,
    )
