"""Keras 3: `.keras` files and live `keras.Model` objects.

Source: https://keras.io/api/models/model_saving_apis/. Keras runs on TensorFlow here, whatever else is
installed.
"""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.arrays import Array
from converters.errors import ConversionError, missing
from converters.frameworks import hdf5, keras_models
from converters.frameworks.base import Pruned, Training
from converters.frameworks.identify import read_metadata
from converters.frameworks.silence import silenced
from converters.frameworks.tensorflow_export import EXTRA, tensorflow
from converters.prune.settings import PruneSettings
from converters.terms import Advanced, Format, Origin
from edge_agent.documents.errors import ModelError

_CONFIG = "config.json"


def load(origin: Origin) -> Any:
    """Return the `keras.Model` of a `.keras` or HDF5 file, without its optimizer.

    Raises ModelError for a file that is not one or is damaged, ConversionError for classes that are not Keras's
    own and, unless it is trusted, for code inside.
    """
    path = Path(origin.path)
    if path.is_file() and hdf5.starts_so(path):
        return _from_hdf5(path, trusted=origin.trust_pickle)
    version = keras_version(path)
    keras = library()
    with silenced():
        try:
            return keras.models.load_model(origin.path, compile=False, safe_mode=not origin.trust_pickle)
        except Exception as error:
            if version.startswith("2."):
                raise ConversionError(
                    f"{origin.path} was saved by Keras {version}, and Keras 3 cannot load it; load it with the "
                    "framework tf-keras."
                ) from error
            raise keras_models.unreadable(origin.path, error) from error


def _from_hdf5(path: Path, *, trusted: bool) -> Any:
    """Load what Keras 3 saved in the older format, whose file it knows by the end of its name alone."""
    hdf5.check(path, trusted=trusted)
    if path.suffix not in (".h5", ".hdf5"):
        raise ModelError(f"{path} was saved as HDF5 by Keras 3, which loads it as .h5 alone; rename it to .h5.")
    keras = library()
    with silenced():
        try:
            return keras.models.load_model(str(path), compile=False, safe_mode=not trusted)
        except Exception as error:
            raise keras_models.unreadable(str(path), error) from error


def keras_version(path: Path) -> str:
    """Return the version of Keras that saved a `.keras` file; raises ModelError for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            archive.getinfo(_CONFIG)
            return str(json.loads(read_metadata(archive))["keras_version"])
    except Exception as error:
        # zipfile and zlib each have exceptions of their own for damaged and encrypted members.
        raise ModelError(
            f"{path} is not a Keras model, or it is truncated; give a complete .keras file, as model.save "
            "writes it."
        ) from error


def input_names(model: Any) -> tuple[str, ...]:
    """Return the names of the input layers, in order."""
    return keras_models.input_names(model)


def export(model: Any, target_format: Format, target: Path, example: Mapping[str, Array]) -> None:
    """Write the model as ONNX with a free batch, or as TFLite with a batch of one."""
    keras_models.export(library(), model, target_format, target, example)


def prune(model: Any, training: Training, settings: PruneSettings, advanced: Advanced) -> Pruned:
    """Return a pruned copy, fine-tuned with a fixed seed; see `converters.prune.keras`."""
    from converters.prune import keras as pruning

    return pruning.prune(library(), model, training, settings, advanced)


def library() -> Any:
    """Import Keras 3 silently; raises ToolMissingError, or ConversionError if it is not on TensorFlow."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    tensorflow()
    with silenced():
        try:
            import keras
        except ImportError as error:
            raise missing("keras", EXTRA) from error
    if keras.backend.backend() != "tensorflow":
        raise ConversionError(
            f"Keras runs on {keras.backend.backend()} here, and only TensorFlow can export; set KERAS_BACKEND "
            "to tensorflow before Keras is imported."
        )
    return keras
