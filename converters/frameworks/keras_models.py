"""What Keras 3 and legacy Keras have in common; `keras` is either module."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from converters.arrays import Array
from converters.errors import ConversionError
from converters.formats.names import distinct
from converters.frameworks import tensorflow_export
from converters.frameworks.silence import silenced
from converters.frameworks.tensorflow_export import Port, Served, sentence
from converters.terms import Format

_FOREIGN: Final = (
    "registered", "Unknown layer", "custom", "Could not locate", "must be an instance of class Layer",
)  # fmt: skip
"""What either Keras says, one of these, of a class that it does not have."""
_FLOATS: Final = ("float16", "bfloat16", "float64")


def input_names(model: Any) -> tuple[str, ...]:
    """Return the names of the input layers, in order; raises ConversionError for a model without them."""
    return tuple(port.name for port in _ports(model))


def output_names(model: Any) -> tuple[str, ...]:
    """Return the names of the layers that the outputs come from, in order, numbered where they repeat."""
    # A Sequential of Keras 3 has no `output_names`.
    found = getattr(model, "output_names", None) or [model.layers[-1].name]
    names = [str(name).split(":")[0] for name in found]
    return distinct(names, input_names(model))


def export(keras: Any, model: Any, target_format: Format, target: Path, example: Mapping[str, Array]) -> None:
    """Write the model in inference mode and float32; see `converters.frameworks.base.Framework.export`."""
    del example
    _ports(model)
    _check_stateless(model)
    tensorflow_export.tensorflow()
    with silenced():
        plain = in_float32(keras, model)
    tensorflow_export.export(served(plain), target_format, target)


def served(model: Any) -> Served:
    """Return a model as a function of its input tensors, in the order of its input layers."""
    import tensorflow as tf

    ports = _ports(model)
    # Keras 3 wants a dictionary where the model was built with one; legacy Keras takes a list also then.
    structure = getattr(model, "_inputs_struct", model.inputs)
    if isinstance(structure, list) and len(structure) == 1:
        structure = structure[0]

    def call(tensors: list[Any]) -> list[Any]:
        answers = model(tf.nest.pack_sequence_as(structure, tensors), training=False)
        flat: list[Any] = tf.nest.flatten(answers)
        return flat

    return Served(call, ports, output_names(model), model)


def in_float32(keras: Any, model: Any) -> Any:
    """Return the model, or a copy that computes in float32 if it computes in another precision."""
    if not _other_precisions(keras, model):
        return model

    def plain(layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=plain)
        config = layer.get_config()
        if "dtype" in config and layer.compute_dtype in _FLOATS:
            config["dtype"] = "float32"
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(model, clone_function=plain)
    copy.set_weights(model.get_weights())
    if found := _other_precisions(keras, copy):
        raise ConversionError(
            f"Layer '{found[0]}' does not compute in float32; build the model with the policy 'float32' and "
            "load the weights into it."
        )
    return copy


def layers(model: Any) -> list[Any]:
    """Return all layers of a model, also those inside nested models and wrappers, in order."""
    # Neither Keras has a public call for it.
    flat = model._flatten_layers(include_self=False, recursive=True)
    return list({id(layer): layer for layer in flat}.values())


def classes(keras: Any, names: tuple[str, ...]) -> tuple[type[Any], ...]:
    """Return the layer classes of these names that this Keras has."""
    return tuple(getattr(keras.layers, name) for name in names if hasattr(keras.layers, name))


def unreadable(path: str, error: Exception) -> ConversionError:
    """Return the error for a file that Keras cannot load."""
    said = sentence(error)
    text = str(error)
    if "ambda" in text and ("unsafe" in text or "safe_mode" in text or "arbitrary code" in text):
        return lambda_refused(path)
    if any(words in text for words in _FOREIGN):
        return ConversionError(
            f"{path} uses a class that Keras does not have ({said}); load it in Python, where the class is "
            "defined, and give the live model to converters.convert."
        )
    return ConversionError(f"Keras cannot load {path}: {said}; give a complete file.")


def lambda_refused(path: str) -> ConversionError:
    """Return the error for a file with code inside."""
    return ConversionError(
        f"{path} has a Lambda layer, which runs code from the file; give --trust-pickle if you trust the "
        "file, or replace the layer."
    )


def _ports(model: Any) -> tuple[Port, ...]:
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ConversionError(
            f"The model '{getattr(model, 'name', model)}' is a subclass, or was never built, so that its "
            "inputs are not known; wrap it first: keras.Model(x, model(x)) with x = keras.Input(shape)."
        )
    names = [str(tensor.name).split(":")[0] for tensor in inputs]
    return tuple(
        Port(name, tuple(tensor.shape), _datatype(tensor.dtype))
        for name, tensor in zip(distinct(names), inputs, strict=True)
    )


def _datatype(dtype: Any) -> str:
    name = str(getattr(dtype, "name", dtype))
    return "float32" if name in _FLOATS else name


def _other_precisions(keras: Any, model: Any) -> list[str]:
    """Return the names of layers that compute in another precision; containers and inputs compute nothing."""
    computing = [one for one in layers(model) if not isinstance(one, keras.Model | keras.layers.InputLayer)]
    return [layer.name for layer in computing if getattr(layer, "compute_dtype", None) in _FLOATS]


def _check_stateless(model: Any) -> None:
    for layer in layers(model):
        if getattr(layer, "stateful", False):
            raise ConversionError(
                f"Layer '{layer.name}' keeps its state between calls, which cannot be converted; build it with "
                "stateful=False."
            )
