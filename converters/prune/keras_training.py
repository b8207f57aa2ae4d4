"""Fine-tuning of Keras models, of Keras 3 and of legacy Keras alike: `keras` is either module.

The same seed, samples and settings give the same weights.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Array
from converters.errors import ConversionError, DataError
from converters.frameworks import keras_models
from converters.frameworks.base import Training
from converters.frameworks.silence import silenced
from converters.frameworks.tensorflow_export import sentence
from converters.prune.checks import own_loss
from converters.prune.schedule import steps_of
from converters.prune.settings import PruneSettings
from converters.terms import Advanced

SEED: Final = 20_261_101
_REPORTS: Final = 100
"""How often the progress of a fine-tuning is told."""


def fine_tune(
    keras: Any,
    model: Any,
    training: Training,
    settings: PruneSettings,
    advanced: Advanced,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train a model in place, on its first output, for `steps_of` batches; `after_step` hears each step from 0.

    Raises DataError if the samples do not fit the model, RequestError for a loss that cannot be imported, and
    ConversionError if the weights run away.
    """
    inputs = _inputs(model, training)
    with silenced():
        # Targets belong to the first output; the others share its layers.
        trained = keras.Model(model.inputs, model.outputs[0])
        loss, targets = _loss(keras, model, training, settings)
        trained.compile(optimizer=keras.optimizers.Adam(settings.learning_rate), loss=loss)
    steps = steps_of(settings)
    for step, chosen in enumerate(_batches(len(targets), settings.batch_size, steps)):
        batch = [array[chosen] for array in inputs]
        with silenced(), _mapping_errors():
            trained.train_on_batch(batch if len(batch) > 1 else batch[0], targets[chosen])
            after_step(step)
        if (step + 1) * _REPORTS // steps > step * _REPORTS // steps:
            advanced((step + 1) / steps)
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        raise ConversionError("The fine-tuning diverged: weights are not finite; lower prune.learning_rate.")


def copied(keras: Any, model: Any) -> Any:
    """Return a model of layers of its own, with the same names and weights."""
    keras_models.input_names(model)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return with_inputs_of(copy, model)


def with_inputs_of(copy: Any, model: Any) -> Any:
    """Return the clone with the inputs called as the model's, which the data goes by.

    The input of a Sequential that begins with an Input is `keras_tensor`, and its clone's `input_layer`.
    """
    for tensor, given in zip(copy.inputs, model.inputs, strict=True):
        if tensor.name != given.name:
            tensor.name = given.name
    return copy


@contextmanager
def deterministic(keras: Any) -> Iterator[None]:
    """Seed everything that Keras draws from and make operators deterministic; restore both afterwards."""
    import tensorflow as tf
    from tensorflow.python.framework import config

    states = random.getstate(), np.random.get_state()
    was_enabled = config.is_op_determinism_enabled()
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if not was_enabled:
            config.disable_op_determinism()
        random.setstate(states[0])
        np.random.set_state(states[1])


def _batches(count: int, size: int, steps: int) -> Iterator[NDArray[np.intp]]:
    """Yield positions of samples, each sample once before any comes again, in a seeded order."""
    generator = np.random.default_rng(SEED)
    pending = np.empty(0, np.intp)
    for _ in range(steps):
        while len(pending) < size:
            pending = np.concatenate([pending, generator.permutation(count)])
        yield pending[:size]
        pending = pending[size:]


def _inputs(model: Any, training: Training) -> list[Array]:
    names = keras_models.input_names(model)
    if lost := [name for name in names if name not in training.inputs]:
        raise DataError(f"The data has no array for the input '{lost[0]}'; pruning needs one for each input.")
    arrays = [np.asarray(training.inputs[name]) for name in names]
    for name, array, tensor in zip(names, arrays, model.inputs, strict=True):
        wanted = tuple(tensor.shape)[1:]
        if array.ndim != len(wanted) + 1 or any(
            size not in (None, have) for size, have in zip(wanted, array.shape[1:], strict=True)
        ):
            raise DataError(
                f"The data for '{name}' has the shape {array.shape}, but the model takes (n, "
                f"{', '.join('any' if size is None else str(size) for size in wanted)})."
            )
    if {len(array) for array in arrays} != {len(training.targets)} or not len(training.targets):
        raise DataError(
            "The inputs and targets differ in number or are empty; give one target for each sample."
        )
    return arrays


def _loss(keras: Any, model: Any, training: Training, settings: PruneSettings) -> tuple[Any, Array]:
    """Return the loss and the targets as it takes them; see `PruneSettings.loss`."""
    targets = np.asarray(training.targets)
    if settings.loss != "auto":
        return own_loss(settings, training), targets
    shape = tuple(model.outputs[0].shape)
    if not np.issubdtype(targets.dtype, np.integer) and targets.dtype != np.bool_:
        return keras.losses.MeanSquaredError(), _shaped(targets.astype(np.float32), shape)
    activation, losses = _last_activation(model), keras.losses
    if len(shape) < 2 or shape[-1] == 1 or (activation == "sigmoid" and targets.ndim == len(shape)):
        _check_classes(targets, 2)
        loss = losses.BinaryCrossentropy(from_logits=activation != "sigmoid")
        return loss, _shaped(targets.astype(np.float32), shape)
    if targets.ndim == len(shape) and targets.shape[-1] == shape[-1]:
        return losses.CategoricalCrossentropy(from_logits=activation != "softmax"), targets.astype(np.float32)
    _check_classes(targets, shape[-1])
    return losses.SparseCategoricalCrossentropy(from_logits=activation != "softmax"), targets


def _check_classes(targets: Array, classes: int) -> None:
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0 or highest >= classes:
        raise DataError(
            f"The class numbers go from {lowest} to {highest}, but the model has {classes} classes; give "
            "numbers from 0, or floats for a regression."
        )


def _shaped(targets: Array, shape: tuple[int | None, ...]) -> Array:
    """Return targets [n] as [n, 1] where the output is, which the loss would otherwise pair all with all."""
    shaped = targets[..., np.newaxis] if targets.ndim == len(shape) - 1 and shape[-1] == 1 else targets
    wanted = shape[1:]
    if shaped.ndim != len(shape) or any(
        size not in (None, have) for size, have in zip(wanted, shaped.shape[1:], strict=True)
    ):
        raise DataError(
            f"The targets have the shape {targets.shape}, which does not fit the output's {wanted}."
        )
    return shaped


def _last_activation(model: Any) -> str:
    """Return the name of the function that the first output comes from, such as `softmax` or `linear`."""
    layer = model.outputs[0]._keras_history[0]
    while getattr(layer, "layers", None) and getattr(layer, "outputs", None):
        layer = layer.outputs[0]._keras_history[0]
    # Inside tfmot's wrappers and TimeDistributed.
    layer = getattr(layer, "layer", layer)
    function = getattr(layer, "activation", None)
    return str(getattr(function, "__name__", "") or type(layer).__name__).lower()


@contextmanager
def _mapping_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ConversionError(
            f"The model cannot be fine-tuned: {sentence(error)}; check the data and prune.loss."
        ) from error
