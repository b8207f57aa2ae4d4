"""TensorFlow SavedModel folders: the serving signature of one.

Source: https://www.tensorflow.org/guide/saved_model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from converters.arrays import Array
from converters.errors import ConversionError
from converters.frameworks import tensorflow_export
from converters.frameworks.base import Pruned, Training
from converters.frameworks.silence import silenced
from converters.frameworks.tensorflow_export import Port, Served, sentence
from converters.prune.settings import PruneSettings
from converters.terms import Advanced, Format, Origin
from edge_agent.documents.errors import ModelError

_SERVING: Final = "serving_default"
_FILES: Final = ("saved_model.pb", "saved_model.pbtxt")


def load(origin: Origin) -> Any:
    """Return the loaded object of a folder; raises ModelError if it is not one, damaged, or of another kind."""
    folder = Path(origin.path)
    if not any((folder / name).is_file() for name in _FILES):
        raise ModelError(
            f"{folder} is not a TensorFlow SavedModel: it has no saved_model.pb; give that folder."
        )
    tf = tensorflow_export.tensorflow()
    with silenced():
        try:
            loaded = tf.saved_model.load(str(folder))
        except Exception as error:
            raise ModelError(
                f"TensorFlow cannot load {folder}: {sentence(error)}; give a complete SavedModel folder."
            ) from error
    _signature(loaded)
    return loaded


def input_names(model: Any) -> tuple[str, ...]:
    """Return the keys of the serving signature's inputs, in alphabetical order as TensorFlow keeps them."""
    return tuple(port.name for port in _ports(_signature(model)))


def export(model: Any, target_format: Format, target: Path, example: Mapping[str, Array]) -> None:
    """Write the serving signature as ONNX with a free batch, or as TFLite with a batch of one."""
    del example
    tensorflow_export.tensorflow()
    signature = _signature(model)
    ports, outputs = _ports(signature), tuple(sorted(signature.structured_outputs))

    def call(tensors: list[Any]) -> list[Any]:
        answers = signature(**{port.name: tensor for port, tensor in zip(ports, tensors, strict=True)})
        return [answers[name] for name in outputs]

    tensorflow_export.export(Served(call, ports, outputs, model), target_format, target)


def prune(model: Any, training: Training, settings: PruneSettings, advanced: Advanced) -> Pruned:
    """Raise ConversionError: a SavedModel has no layers to fine-tune."""
    raise ConversionError(
        "A SavedModel cannot be pruned, since it keeps no layers to fine-tune; start from the .keras or .h5 "
        "file."
    )


def _signature(model: Any) -> Any:
    signatures = model.signatures
    if _SERVING in signatures:
        return signatures[_SERVING]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    names = ", ".join(sorted(signatures)) or "none"
    raise ConversionError(
        f"The SavedModel has no signature '{_SERVING}' (its signatures: {names}); save it with "
        f"signatures={{'{_SERVING}': ...}}."
    )


def _ports(signature: Any) -> tuple[Port, ...]:
    specs: Mapping[str, Any] = signature.structured_input_signature[1]
    return tuple(_port(name, specs[name]) for name in sorted(specs))


def _port(name: str, spec: Any) -> Port:
    if spec.shape.rank is None:
        raise ConversionError(
            f"Input '{name}' has no fixed number of dimensions; save the SavedModel with a shape in its "
            "signature."
        )
    return Port(name, tuple(spec.shape), spec.dtype.name)
