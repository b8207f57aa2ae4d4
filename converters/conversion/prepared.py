"""What a model is fine-tuned with where data is raw, as apps send it: what the preprocessing makes of that."""

from collections.abc import Mapping

import numpy as np

from converters.arrays import Array
from converters.conversion.workshop import Workshop
from converters.data.columns import Columns
from converters.data.fitting import samples_of
from converters.data.samples import Targets
from converters.formats.sources import SourceModel, read_source
from converters.processing import onnx as processing
from converters.processing.settings import PreprocessSettings
from converters.terms import Format
from converters.workers.trials import installed_runtimes


def prepared_arrays(
    shop: Workshop, columns: Columns, plain: Mapping[Format, SourceModel], settings: PreprocessSettings
) -> tuple[dict[str, Array], Targets | None]:
    """Return arrays as the model itself takes them, by input name, samples along axis 0, and the targets.

    The preprocessing of one of the float files runs alone over the data. Raises RequestError, ConversionError
    or DataError for what does not fit.
    """
    source = next(plain[name] for name in ("onnx", "tflite") if name in plain)
    inputs = shop.load(source, installed_runtimes(source.engine)).inputs
    path = shop.folder / "preprocessing.onnx"
    processing.write_preprocessing(inputs, path, settings)
    alone = shop.load(read_source(path), installed_runtimes("onnx"))
    samples = samples_of(columns, alone.inputs)
    answers = shop.bench.run(alone, samples.inputs)
    found = {
        spec.name: np.concatenate([answer[output.name] for answer in answers])
        for spec, output in zip(inputs, alone.outputs, strict=True)
    }
    return found, samples.targets
