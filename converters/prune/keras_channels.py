"""Structured pruning of Keras models: output channels that matter least are removed, and the graph shrinks.

Removed are channels of Conv1D, Conv2D, Conv3D and Dense layers, those with the smallest sums of absolute
weights (Li et al., "Pruning Filters for Efficient ConvNets" (2016), arXiv:1608.08710), all at once, before the
fine-tuning: of the schedule only `final_sparsity` and the number of steps count. What follows is cut to match:
BatchNormalization, DepthwiseConv, activations, pooling, padding, dropout, Flatten, and the inputs of the next
Conv or Dense.

Left whole, with a sparsity of 0 in the result: layers whose channels reach an output of the model, a merge such
as Add or Concatenate, a reshape, a recurrent or nested layer, or anything else than the above; grouped
convolutions; layers that are used twice; `channels_first`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Array
from converters.errors import ConversionError
from converters.frameworks import keras_models
from converters.frameworks.base import Pruned, Training
from converters.frameworks.silence import silenced
from converters.prune import checks, keras_training
from converters.prune.schedule import kept_channels
from converters.prune.settings import PruneSettings
from converters.terms import Advanced

_COMPUTING: Final = ("Conv1D", "Conv2D", "Conv3D", "Dense")
_TRANSPOSED: Final = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
"""Kinds of Conv in legacy Keras, with other axes."""
_DEPTHWISE: Final = ("DepthwiseConv1D", "DepthwiseConv2D")
_SEPARABLE: Final = ("SeparableConv1D", "SeparableConv2D")
_PASSING: Final = (
    "ReLU", "LeakyReLU", "ELU", "Activation", "Dropout",
    "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise", "GaussianDropout",
    "ActivityRegularization",
    "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
    "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D",
    "UpSampling1D", "UpSampling2D", "UpSampling3D",
)  # fmt: skip
_ELEMENTWISE: Final = frozenset({
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "swish", "sigmoid", "hard_sigmoid",
    "hard_silu", "hard_swish", "tanh", "softplus", "softsign", "exponential", "mish",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Channels:
    """Which positions of a tensor's last axis stay."""

    kept: NDArray[np.intp]
    total: int

    def repeated(self, times: int) -> "_Channels":
        """Return the positions where each channel becomes several, side by side, as in a depthwise layer."""
        kept = (self.kept[:, np.newaxis] * times + np.arange(times)).ravel()
        return _Channels(kept, self.total * times)

    def flattened(self, places: int) -> "_Channels":
        """Return the positions where the channels of several places come one after the other."""
        kept = (np.arange(places)[:, np.newaxis] * self.total + self.kept).ravel()
        return _Channels(kept, self.total * places)


def prune(keras: Any, model: Any, training: Training, settings: PruneSettings, advanced: Advanced) -> Pruned:
    """Return a smaller, fine-tuned copy; raises ConversionError where no channel can be removed."""
    pruned = shrunk(keras, model, settings)
    keras_training.fine_tune(keras, pruned.model, training, settings, advanced)
    return pruned


def shrunk(keras: Any, model: Any, settings: PruneSettings) -> Pruned:
    """Return a smaller copy that answers as the model would if the removed channels were zero."""
    with silenced():
        # Layers of its own, so that each is used only where this model uses it.
        copy = keras_training.copied(keras, model)
        graph = _Graph(keras, copy)
        considered = [
            layer
            for layer in graph.layers
            if graph.is_computing(layer) and not checks.is_excluded(layer.name, settings)
        ]
        planned = _plan(graph, considered, settings.final_sparsity)
        if not planned:
            raise ConversionError(
                "No layer's channels can be removed: all reach an output, a merge or a layer that cannot "
                "shrink; prune with method = 'magnitude'."
            )
        small = _rebuilt(keras, copy, planned)
        _fill(graph, small, planned)
    return _measured(small, considered, planned, graph)


def _plan(graph: "_Graph", considered: list[Any], sparsity: float) -> dict[str, _Channels]:
    planned: dict[str, _Channels] = {}
    for layer in considered:
        kernel = layer.get_weights()[0]
        kept = kept_channels(kernel, -1, sparsity)
        if len(kept) < kernel.shape[-1] and graph.can_shrink(layer):
            planned[layer.name] = _Channels(kept, kernel.shape[-1])
    return planned


def _rebuilt(keras: Any, model: Any, planned: dict[str, _Channels]) -> Any:
    def resized(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name in planned:
            config["units" if "units" in config else "filters"] = len(planned[layer.name].kept)
        return layer.__class__.from_config(config)

    return keras_training.with_inputs_of(keras.models.clone_model(model, clone_function=resized), model)


def _fill(graph: "_Graph", small: Any, planned: dict[str, _Channels]) -> None:
    """Give the smaller model the weights that stay."""
    arriving: dict[int, _Channels | None] = {}
    leaving: dict[int, _Channels | None] = {}
    for layer in graph.layers:
        sources = graph.sources(layer)
        arriving[id(layer)] = leaving.get(id(sources[0])) if len(sources) == 1 else None
        leaving[id(layer)] = graph.leaving(layer, arriving[id(layer)], planned)
    targets = {layer.name: layer for layer in small.layers}
    for layer in graph.layers:
        if layer.name in targets and layer.get_weights():
            weights = graph.cut(layer, arriving[id(layer)], leaving[id(layer)])
            targets[layer.name].set_weights(weights)


def _measured(small: Any, considered: list[Any], planned: dict[str, _Channels], graph: "_Graph") -> Pruned:
    totals = {
        layer.name: layer.get_weights()[0].shape[-1] for layer in considered if not graph.is_output(layer)
    }
    gone = {name: planned[name].total - len(planned[name].kept) if name in planned else 0 for name in totals}
    shares = {name: gone[name] / totals[name] for name in totals}
    return Pruned(small, sum(gone.values()) / sum(totals.values()), shares)


class _Graph:
    """The layers of a Sequential or functional model in order, and what each takes and gives."""

    def __init__(self, keras: Any, model: Any) -> None:
        self._keras = keras
        is_chain = isinstance(model, keras.Sequential)
        # Keras 3 has operators such as `+` beside layers.
        self.layers: list[Any] = list(model.layers if is_chain else getattr(model, "operations", model.layers))
        self._sources: dict[int, list[Any]] = {}
        for index, layer in enumerate(self.layers):
            self._sources[id(layer)] = self.layers[index - 1 : index] if is_chain else _producers(layer)
        self._users: dict[int, list[Any]] = {id(layer): [] for layer in self.layers}
        for layer in self.layers:
            for source in self._sources[id(layer)]:
                self._users.setdefault(id(source), []).append(layer)
        self._shared = {
            id(layer) for layer in self.layers if not is_chain and len(getattr(layer, "_inbound_nodes", ())) > 1
        }
        ends = [self.layers[-1]] if is_chain else [tensor._keras_history[0] for tensor in model.outputs]
        self._outputs = {id(layer) for layer in ends}

    def sources(self, layer: Any) -> list[Any]:
        """Return the layers whose outputs a layer takes."""
        return self._sources[id(layer)]

    def is_output(self, layer: Any) -> bool:
        """Say whether a layer gives an output of the model."""
        return id(layer) in self._outputs

    def is_computing(self, layer: Any) -> bool:
        """Say whether a layer mixes all its input channels into new ones by a kernel [..., in, out]."""
        return (
            self._is(layer, _COMPUTING)
            and not self._is(layer, _TRANSPOSED + _DEPTHWISE + _SEPARABLE)
            and getattr(layer, "groups", 1) == 1
        )

    def can_shrink(self, layer: Any) -> bool:
        """Say whether everything that a layer's channels reach can do with fewer of them."""
        if self.is_output(layer) or not self._keeps_apart(layer):
            return False
        pending = list(self._users[id(layer)])
        while pending:
            user = pending.pop()
            if id(user) in self._shared:
                return False
            if self.is_computing(user) and _is_channels_last(user):
                continue
            if self.is_output(user) or not self._passes(user):
                return False
            pending += self._users[id(user)]
        return True

    def leaving(
        self, layer: Any, arriving: _Channels | None, planned: dict[str, _Channels]
    ) -> _Channels | None:
        """Return which of a layer's output channels stay, None for all."""
        if layer.name in planned:
            return planned[layer.name]
        if arriving is None or self.is_computing(layer):
            return None
        if self._is(layer, _DEPTHWISE):
            return arriving.repeated(layer.get_weights()[0].shape[-1])
        if self._is(layer, ("Flatten",)):
            shape = tuple(layer.output.shape)
            return arriving.flattened(int(shape[-1]) // arriving.total)
        return arriving

    def cut(self, layer: Any, arriving: _Channels | None, leaving: _Channels | None) -> list[Array]:
        """Return a layer's weights without what was removed; the kernel comes first, others go by channel."""
        kernel, *others = layer.get_weights()
        if self.is_computing(layer) or self._is(layer, _DEPTHWISE):
            if arriving is not None:
                kernel = kernel.take(arriving.kept, axis=-2)
            if leaving is not None and self.is_computing(layer):
                kernel = kernel.take(leaving.kept, axis=-1)
        elif leaving is not None:
            kernel = kernel.take(leaving.kept, axis=-1)
        return [kernel, *(one if leaving is None else one.take(leaving.kept, axis=-1) for one in others)]

    def _passes(self, layer: Any) -> bool:
        """Say whether a layer treats each channel by itself."""
        if len(self._sources[id(layer)]) != 1 or not self._keeps_apart(layer):
            return False
        if self._is(layer, ("BatchNormalization",)):
            axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
            return axis in (-1, len(layer.output.shape) - 1)
        if self._is(layer, ("Flatten",)):
            return layer.output.shape[-1] is not None
        return self._is(layer, _DEPTHWISE + _PASSING)

    def _keeps_apart(self, layer: Any) -> bool:
        function = getattr(layer, "activation", None)
        name = getattr(function, "__name__", type(function).__name__)
        return (
            id(layer) not in self._shared
            and _is_channels_last(layer)
            and (function is None or str(name).lower() in _ELEMENTWISE)
        )

    def _is(self, layer: Any, names: tuple[str, ...]) -> bool:
        return isinstance(layer, keras_models.classes(self._keras, names))


def _producers(layer: Any) -> list[Any]:
    found = [tensor._keras_history[0] for node in layer._inbound_nodes for tensor in _node_inputs(node)]
    return list({id(one): one for one in found}.values())


def _node_inputs(node: Any) -> Iterator[Any]:
    # Legacy Keras keeps tensors among the keyword arguments elsewhere.
    yield from getattr(node, "keras_inputs", None) or node.input_tensors


def _is_channels_last(layer: Any) -> bool:
    return getattr(layer, "data_format", "channels_last") in ("channels_last", None)
