"""The seam to litert-quantizer: int8, dynamic and float16 from a float TFLite file. Runs in a worker process.

Source: https://github.com/google-ai-edge/LiteRT/tree/main/litert_quantizer. It needs no TensorFlow.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from converters.arrays import Sample
from converters.errors import ConversionError, missing
from converters.formats import tflite_model

_HALF_BITS: Final = 16
_HALF_OPERATORS: Final = (
    "FULLY_CONNECTED",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "CONV_2D_TRANSPOSE",
    "EMBEDDING_LOOKUP",
)


def quantize_dynamic(source: Path, target: Path) -> None:
    """Write a copy with int8 weights per channel; activations are quantized while it runs."""
    library = _import()
    _write(library, source, target, library.recipe.dynamic_wi8_afp32(), [])


def quantize_half(source: Path, target: Path) -> None:
    """Write a copy with float16 weights, which are turned into float32 when it is loaded."""
    library = _import()
    manager = library.recipe_manager.RecipeManager()
    for operator in _HALF_OPERATORS:
        manager.add_weight_only_config(
            ".*",
            library.qtyping.TFLOperationName[operator],
            _HALF_BITS,
            algorithm_key=library.quantizer.AlgorithmName.FLOAT_CASTING,
        )
    _write(library, source, target, manager.get_quantization_recipe(), [])


def quantize_static(source: Path, target: Path, samples: list[Sample]) -> None:
    """Write a copy with int8 weights and activations; inputs and outputs stay float."""
    library = _import()
    manager = library.recipe_manager.RecipeManager()
    manager.load_quantization_recipe(library.recipe.static_wi8_ai8())
    for operator in ("INPUT", "OUTPUT"):
        manager.add_quantization_config(
            ".*",
            library.qtyping.TFLOperationName[operator],
            algorithm_key=library.quantizer.AlgorithmName.NO_QUANTIZE,
        )
    _write(library, source, target, manager.get_quantization_recipe(), samples)


def _write(library: SimpleNamespace, source: Path, target: Path, recipe: Any, samples: list[Sample]) -> None:
    model = tflite_model.read(source)
    names = tflite_model.output_names(model)
    content = tflite_model.normalised(model)
    arguments = tflite_model.signature_inputs(model)
    with _mapping_errors():
        quantizer = library.quantizer.Quantizer(content, recipe)
        calibration = None
        if quantizer.need_calibration:
            key = tflite_model.signature_key(model)
            calls = [{arguments[name]: array for name, array in sample.items()} for sample in samples]
            calibration = quantizer.calibrate({key: calls}, num_threads=1)
        result = quantizer.quantize(calibration, enable_progress_bar=False, enable_progress_report=False)
    target.write_bytes(tflite_model.with_output_names(bytes(result.quantized_model), names))


@contextmanager
def _mapping_errors() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # It warns about memory, and about casts of the padding that no range covers.
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = lines[0].rstrip(". ") if lines else type(error).__name__
        raise ConversionError(f"litert-quantizer cannot convert this model: {said}.") from error


def _import() -> SimpleNamespace:
    try:
        from litert_quantizer import qtyping, quantizer, recipe, recipe_manager
    except ImportError as error:
        raise missing("litert-quantizer") from error
    return SimpleNamespace(qtyping=qtyping, quantizer=quantizer, recipe=recipe, recipe_manager=recipe_manager)
