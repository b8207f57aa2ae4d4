"""Pruning of legacy Keras models: single weights by tfmot, or whole channels.

Source: https://www.tensorflow.org/model_optimization/guide/pruning. Layers inside wrappers such as
TimeDistributed are left whole.
"""

import os
from typing import Any

from converters.errors import ConversionError, missing
from converters.frameworks import keras_models
from converters.frameworks.base import Pruned, Training
from converters.frameworks.silence import silenced
from converters.frameworks.tensorflow_export import EXTRA
from converters.prune import checks, keras_channels, keras_training
from converters.prune.keras import POINTWISE_KERNELS, WHOLE_KERNELS, measured
from converters.prune.settings import PruneSettings
from converters.terms import Advanced


def prune(tf_keras: Any, model: Any, training: Training, settings: PruneSettings, advanced: Advanced) -> Pruned:
    """Return a pruned copy, fine-tuned with a fixed seed; the model that was given stays as it is.

    Raises ConversionError where nothing can be pruned, DataError and RequestError as
    `keras_training.fine_tune`, ToolMissingError without tfmot.
    """
    checks.check(settings, [layer.name for layer in keras_models.layers(model)])
    with keras_training.deterministic(tf_keras):
        if settings.method == "channels":
            return keras_channels.prune(tf_keras, model, training, settings, advanced)
        tfmot = _import()
        with silenced():
            copy = keras_training.copied(tf_keras, model)
            names, wrapped = _wrapped(tf_keras, tfmot, copy, settings)
            # The wrappers count steps and update masks inside the training step, once this has been told.
            steps = tfmot.sparsity.keras.UpdatePruningStep()
            steps.set_model(wrapped)
            steps.on_train_begin()
        keras_training.fine_tune(tf_keras, wrapped, training, settings, advanced)
        with silenced():
            steps.on_epoch_end(0)
            stripped = tfmot.sparsity.keras.strip_pruning(wrapped)
            # A copy again, without what the wrappers left on the layers.
            plain = keras_training.copied(tf_keras, stripped)
    found = {layer.name: layer.get_weights() for layer in keras_models.layers(plain) if layer.name in names}
    return measured(plain, {name: weights[names[name]] for name, weights in found.items()})


def _wrapped(tf_keras: Any, tfmot: Any, copy: Any, settings: PruneSettings) -> tuple[dict[str, int], Any]:
    """Return which of a pruned layer's weights is the kernel, by layer, and the model with tfmot's wrappers."""
    names: dict[str, int] = {}
    schedule = _schedule(tfmot, settings)
    whole, pointwise = (keras_models.classes(tf_keras, kind) for kind in (WHOLE_KERNELS, POINTWISE_KERNELS))

    def wrap(layer: Any) -> Any:
        if isinstance(layer, tf_keras.Model):
            return tf_keras.models.clone_model(layer, clone_function=wrap)
        if not isinstance(layer, whole + pointwise) or checks.is_excluded(layer.name, settings):
            return layer
        # SeparableConv is a kind of Conv: depthwise kernel, pointwise kernel, bias.
        names[layer.name] = 1 if isinstance(layer, pointwise) else 0
        return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)

    wrapped = tf_keras.models.clone_model(copy, clone_function=wrap)
    if not names:
        raise ConversionError(
            "The model has no Dense or Conv layer to prune that is not excluded; leave the pruning away."
        )
    return names, wrapped


def _schedule(tfmot: Any, settings: PruneSettings) -> Any:
    import tensorflow as tf

    class Schedule(tfmot.sparsity.keras.PolynomialDecay):  # type: ignore[misc]
        """tfmot's, which misses the final sparsity unless the frequency divides the schedule's length."""

        def _should_prune_in_step(self, step: Any, begin_step: int, end_step: int, frequency: int) -> Any:
            due = super()._should_prune_in_step(step, begin_step, end_step, frequency)
            return tf.math.logical_or(due, tf.math.equal(step, end_step))

    return Schedule(
        settings.initial_sparsity,
        settings.final_sparsity,
        settings.begin_step,
        settings.end_step,
        settings.power,
        settings.frequency,
    )


def _import() -> Any:
    """Import tfmot, which sets TF_USE_LEGACY_KERAS, without changing which Keras `tf.keras` is."""
    legacy = os.environ.get("TF_USE_LEGACY_KERAS")
    with silenced():
        try:
            import tensorflow as tf

            # Settles it by the variable as it was.
            _ = tf.keras.__name__
            import tensorflow_model_optimization as tfmot
        except ImportError as error:
            raise missing("tensorflow-model-optimization", EXTRA) from error
        finally:
            if legacy is None:
                os.environ.pop("TF_USE_LEGACY_KERAS", None)
    return tfmot
