"""The seam to litert-quantizer: float16, dynamic, int8 and int16x8 from a float TFLite file. Runs in a worker.

Source: https://github.com/google-ai-edge/LiteRT/tree/main/litert_quantizer. It needs no TensorFlow.
"""

import re
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np

from converters.arrays import Sample
from converters.errors import ConversionError, missing
from converters.formats import tflite_model
from converters.quantize import layers, ranges, seam, tflite_graph
from converters.quantize.settings import QuantizeSettings
from converters.quantize.tflite_graph import Prepared

_HALF_BITS: Final = 16
_HALF_OPERATORS: Final = (
    "FULLY_CONNECTED",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "CONV_2D_TRANSPOSE",
    "EMBEDDING_LOOKUP",
)
_WEIGHT_BITS: Final = 8
_EVERYTHING: Final = ".*"
_ENDS: Final = "^.*"
"""Means the same, but counts after it: of several settings that match, the latest pattern's is used."""

_DEFAULT: Final = QuantizeSettings()


def quantize_dynamic(
    source: Path, target: Path, settings: QuantizeSettings = _DEFAULT, *, dense_per_tensor: bool = False
) -> None:
    """Write a copy with int8 weights; activations are quantized while it runs.

    With `dense_per_tensor` the FULLY_CONNECTED operators have one scale for all their weights:
    tflite-runtime 2.14 computes those with a scale for each channel wrong, without a word.
    """
    library = _import()
    ready = tflite_graph.prepared(source)
    manager, kinds = library.recipe_manager.RecipeManager(), library.qtyping.TFLOperationName
    granularity = _granularity(library, per_channel=settings.per_channel)
    manager.add_dynamic_config(_EVERYTHING, kinds.ALL_SUPPORTED, _WEIGHT_BITS, granularity)
    if dense_per_tensor:
        whole = _granularity(library, per_channel=False)
        manager.add_dynamic_config(_EVERYTHING, kinds.FULLY_CONNECTED, _WEIGHT_BITS, whole)
    _keep_in_float(library, manager, ready, layers.in_float(ready.operators, settings.exclude))
    target.write_bytes(_quantized(library, ready, manager, None))


def quantize_half(source: Path, target: Path, settings: QuantizeSettings = _DEFAULT) -> None:
    """Write a copy with float16 weights, which are turned into float32 when it is loaded."""
    library = _import()
    ready = tflite_graph.prepared(source)
    manager = library.recipe_manager.RecipeManager()
    for operator in _HALF_OPERATORS:
        manager.add_weight_only_config(
            _EVERYTHING,
            library.qtyping.TFLOperationName[operator],
            _HALF_BITS,
            algorithm_key=library.quantizer.AlgorithmName.FLOAT_CASTING,
        )
    _keep_in_float(library, manager, ready, layers.in_float(ready.operators, settings.exclude))
    target.write_bytes(_quantized(library, ready, manager, None))


def quantize_static(
    source: Path,
    target: Path,
    samples: Sequence[Sample],
    *,
    activation_bits: Literal[8, 16] = 8,
    settings: QuantizeSettings = _DEFAULT,
    ranges: Path | None = None,
) -> None:
    """Write a copy with int8 weights and integer activations in the ranges that the samples show.

    Inputs and outputs stay float, unless int8 ones are asked for. `ranges` is a file that keeps what
    calibration found: read if it exists, else written.
    """
    ready = tflite_graph.prepared(source)
    with tempfile.TemporaryDirectory(prefix="ranges-") as folder:
        found = ranges or Path(folder, "ranges.json")
        if not found.exists():
            calibrate(ready, samples, settings, found)
        excluded = layers.in_float(ready.operators, settings.exclude)
        content = static(ready, found, excluded, activation_bits=activation_bits, settings=settings)
    target.write_bytes(content)
    if settings.io == "int8" and activation_bits == _WEIGHT_BITS:
        _check_ends(target)


def calibrate(ready: Prepared, samples: Sequence[Sample], settings: QuantizeSettings, target: Path) -> None:
    """Write the ranges that the samples show, in the quantizer's own form; raises ConversionError."""
    library = _import()
    manager = library.recipe_manager.RecipeManager()
    manager.load_quantization_recipe(library.recipe.static_wi8_ai8())
    with _mapping_errors():
        # By default it takes moving averages of the extremes, which depend on the samples' order.
        calibrator = library.calibrator.Calibrator(
            ready.content, num_threads=1, qsv_update_func=library.qsv_utils.min_max_update
        )
        for call in ready.calls(samples):
            # One at a time, since state is reset after each call.
            calibrator.calibrate({ready.signature: [call]}, manager)
        found = calibrator.get_model_qsvs()
        _check_finite(found)
        if settings.calibration != "minmax":
            _narrow(found, ready, samples, settings)
        calibrator.save_calibration_result(str(target))


def static(
    ready: Prepared,
    found: Path,
    excluded: Iterable[str],
    *,
    activation_bits: Literal[8, 16],
    settings: QuantizeSettings,
) -> bytes:
    """Return a static copy of a prepared model."""
    library = _import()
    manager, kinds = library.recipe_manager.RecipeManager(), library.qtyping.TFLOperationName
    granularity = _granularity(library, per_channel=settings.per_channel)
    manager.add_static_config(
        _EVERYTHING, kinds.ALL_SUPPORTED, activation_bits, _WEIGHT_BITS, weight_granularity=granularity
    )
    if settings.io == "float" or activation_bits != _WEIGHT_BITS:
        for kind in (kinds.INPUT, kinds.OUTPUT):
            manager.add_quantization_config(_EVERYTHING, kind, algorithm_key=_nothing(library))
    _keep_in_float(library, manager, ready, excluded)
    if settings.io == "int8" and activation_bits == _WEIGHT_BITS:
        # An excluded last layer has the same scope as the output, and must not take it along.
        manager.add_static_config(_ENDS, kinds.OUTPUT, activation_bits, _WEIGHT_BITS)
    with _mapping_errors():
        calibration, _ = library.calibration_utils.load_calibration_results(str(found))
    return _quantized(library, ready, manager, calibration)


def _quantized(library: SimpleNamespace, ready: Prepared, manager: Any, calibration: Any) -> bytes:
    with _mapping_errors():
        quantizer = library.quantizer.Quantizer(ready.content, manager.get_quantization_recipe())
        given = calibration if quantizer.need_calibration else None
        result = quantizer.quantize(given, enable_progress_bar=False, enable_progress_report=False)
        return tflite_model.with_outputs_of(bytes(result.quantized_model), ready.model)


def _keep_in_float(library: SimpleNamespace, manager: Any, ready: Prepared, names: Iterable[str]) -> None:
    kind = library.qtyping.TFLOperationName.ALL_SUPPORTED
    wanted = frozenset(names)
    for one in ready.operators:
        if one.name in wanted:
            # The quantizer's name for an operator: its outputs, each with a semicolon.
            scope = "^" + re.escape("".join(f"{name};" for name in one.outputs if name)) + "$"
            manager.add_quantization_config(scope, kind, algorithm_key=_nothing(library))


def _narrow(found: Any, ready: Prepared, samples: Sequence[Sample], settings: QuantizeSettings) -> None:
    """Narrow the extremes to the range that the setting chooses; those of inner subgraphs stay."""
    for name, histogram in ranges.observe(tflite_graph.activations(ready, samples)).items():
        if found.get(name):
            low, high = ranges.chosen(histogram, settings)
            found[name] = {
                "min": np.maximum(found[name]["min"], np.float32(low)),
                "max": np.minimum(found[name]["max"], np.float32(high)),
            }


def _check_finite(found: Any) -> None:
    for name, range_ in found.items():
        if range_ and not (np.isfinite(range_["min"]).all() and np.isfinite(range_["max"]).all()):
            raise ConversionError(
                f"The calibration samples make tensor '{name}' NaN or infinite, so no range can be found; "
                "check the model with them."
            )


def _check_ends(target: Path) -> None:
    model = tflite_model.read(target)
    for kind, names in tflite_model.float_ends(model).items():
        if names:
            raise ConversionError(
                f"The int8 variant cannot have integers at its {kind} '{names[0]}', since what is there stays "
                "in float; ask for io = 'float', or do not exclude the layers beside it."
            )


def _granularity(library: SimpleNamespace, *, per_channel: bool) -> Any:
    kinds = library.qtyping.QuantGranularity
    return kinds.CHANNELWISE if per_channel else kinds.TENSORWISE


def _nothing(library: SimpleNamespace) -> Any:
    return library.quantizer.AlgorithmName.NO_QUANTIZE


def _mapping_errors() -> AbstractContextManager[None]:
    return seam.mapping_errors("litert-quantizer cannot convert this model")


def _import() -> SimpleNamespace:
    try:
        from litert_quantizer import calibrator, qtyping, quantizer, recipe, recipe_manager
        from litert_quantizer.utils import calibration_utils, qsv_utils
    except ImportError as error:
        raise missing("litert-quantizer") from error
    return SimpleNamespace(
        calibration_utils=calibration_utils,
        calibrator=calibrator,
        qsv_utils=qsv_utils,
        qtyping=qtyping,
        quantizer=quantizer,
        recipe=recipe,
        recipe_manager=recipe_manager,
    )
