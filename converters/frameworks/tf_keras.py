"""Legacy Keras (tf_keras, the Keras of TensorFlow before 2.16): `.h5`, old `.keras` and live `tf_keras.Model`.

It is imported under its own name and never as `tf.keras`, which is Keras 3 or this one by an environment
variable that is read once in a process; so both live side by side.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.arrays import Array
from converters.errors import missing
from converters.frameworks import hdf5, keras_models
from converters.frameworks.base import Pruned, Training
from converters.frameworks.silence import silenced
from converters.frameworks.tensorflow_export import EXTRA, tensorflow
from converters.prune.settings import PruneSettings
from converters.terms import Advanced, Format, Origin


def load(origin: Origin) -> Any:
    """Return the `tf_keras.Model` of an HDF5 or old `.keras` file, without its optimizer.

    Raises ModelError for a file that is not one or is damaged, ConversionError for classes that are not Keras's
    own and, unless it is trusted, for code inside.
    """
    path = Path(origin.path)
    if hdf5.starts_so(path):
        hdf5.check(path, trusted=origin.trust_pickle)
    else:
        from converters.frameworks.keras import keras_version

        keras_version(path)
    tf_keras = library()
    with silenced():
        try:
            return tf_keras.models.load_model(origin.path, compile=False, safe_mode=not origin.trust_pickle)
        except Exception as error:
            raise keras_models.unreadable(origin.path, error) from error


def input_names(model: Any) -> tuple[str, ...]:
    """Return the names of the input layers, in order."""
    return keras_models.input_names(model)


def export(model: Any, target_format: Format, target: Path, example: Mapping[str, Array]) -> None:
    """Write the model as ONNX with a free batch, or as TFLite with a batch of one."""
    keras_models.export(library(), model, target_format, target, example)


def prune(model: Any, training: Training, settings: PruneSettings, advanced: Advanced) -> Pruned:
    """Return a pruned copy, fine-tuned with a fixed seed; see `converters.prune.tf_keras`."""
    from converters.prune import tf_keras as pruning

    return pruning.prune(library(), model, training, settings, advanced)


def library() -> Any:
    """Import legacy Keras silently; raises ToolMissingError."""
    tensorflow()
    with silenced():
        try:
            import tf_keras
        except ImportError as error:
            raise missing("tf-keras", EXTRA) from error
    return tf_keras
