"""Pruning of Keras 3 models: single weights by a mask, or whole channels.

tfmot refuses Keras 3 models, so the masks are computed and applied here, after each batch. Pruned are the
kernels of Dense and Conv layers and the pointwise ones of SeparableConv, as tfmot does; depthwise kernels,
biases, embeddings and recurrent layers are left whole.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.errors import ConversionError
from converters.frameworks import keras_models
from converters.frameworks.base import Pruned, Training
from converters.frameworks.silence import silenced
from converters.prune import checks, keras_channels, keras_training
from converters.prune.schedule import magnitude_mask, sparsity_at, updates_at
from converters.prune.settings import PruneSettings
from converters.terms import Advanced

WHOLE_KERNELS: Final = (
    "Dense", "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose",
)  # fmt: skip
POINTWISE_KERNELS: Final = ("SeparableConv1D", "SeparableConv2D")


def prune(keras: Any, model: Any, training: Training, settings: PruneSettings, advanced: Advanced) -> Pruned:
    """Return a pruned copy, fine-tuned with a fixed seed; the model that was given stays as it is.

    Raises ConversionError where nothing can be pruned, DataError and RequestError as
    `keras_training.fine_tune`.
    """
    checks.check(settings, [layer.name for layer in keras_models.layers(model)])
    with keras_training.deterministic(keras):
        if settings.method == "channels":
            return keras_channels.prune(keras, model, training, settings, advanced)
        with silenced():
            copy = keras_training.copied(keras, model)
        kernels = prunable_kernels(keras, copy, settings)
        masks: dict[str, NDArray[np.bool_]] = {}

        def mask(step: int) -> None:
            for name, kernel in kernels.items():
                weights = keras.ops.convert_to_numpy(kernel)
                if updates_at(step, settings):
                    masks[name] = magnitude_mask(weights, sparsity_at(step, settings))
                if name in masks:
                    kernel.assign(np.where(masks[name], weights, np.zeros_like(weights)))

        keras_training.fine_tune(keras, copy, training, settings, advanced, mask)
    return measured(copy, {name: keras.ops.convert_to_numpy(kernel) for name, kernel in kernels.items()})


def prunable_kernels(keras: Any, model: Any, settings: PruneSettings) -> dict[str, Any]:
    """Return the kernels to prune, by layer; raises ConversionError if there are none."""
    kernels: dict[str, Any] = {}
    for layer in keras_models.layers(model):
        if checks.is_excluded(layer.name, settings):
            continue
        if isinstance(layer, keras_models.classes(keras, WHOLE_KERNELS)):
            kernels[layer.name] = layer.kernel
        elif isinstance(layer, keras_models.classes(keras, POINTWISE_KERNELS)):
            kernels[layer.name] = layer.pointwise_kernel
    if not kernels:
        raise ConversionError(
            "The model has no Dense or Conv layer to prune that is not excluded; leave the pruning away."
        )
    return kernels


def measured(model: Any, kernels: dict[str, NDArray[Any]]) -> Pruned:
    """Return the model with the sparsity that its kernels really have."""
    zeros = {name: int(np.count_nonzero(kernel == 0)) for name, kernel in kernels.items()}
    share = sum(zeros.values()) / sum(kernel.size for kernel in kernels.values())
    return Pruned(model, share, {name: zeros[name] / kernel.size for name, kernel in kernels.items()})
