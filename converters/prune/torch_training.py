"""Fine-tunes a PyTorch module: batches in a fixed order, and the loss that fits its outputs and targets."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.arrays import Array
from converters.errors import DataError, said
from converters.frameworks.base import Training
from converters.frameworks.silence import silenced
from converters.frameworks.torch_files import import_torch
from converters.frameworks.torch_program import tensor
from converters.prune import checks
from converters.prune.settings import PruneSettings
from edge_agent.documents.errors import ModelError

SEED = 20180101

Loss = Callable[[Any, Any], Any]
"""The loss, a tensor without axes, of a batch's outputs and targets."""


@dataclass(frozen=True, slots=True)
class Batches:
    """All of the training data as tensors on the CPU, and the batches that it comes in."""

    training: Training
    inputs: Mapping[str, Any]
    targets: Any
    size: int

    @property
    def count(self) -> int:
        """The number of samples."""
        return int(self.targets.shape[0])

    def first(self, count: int) -> dict[str, Any]:
        """Return the inputs of the first samples."""
        return {name: value[:count] for name, value in self.inputs.items()}

    def shuffled(self) -> Iterator[tuple[dict[str, Any], Any]]:
        """Yield batches for ever, each epoch in another order, the same in each run.

        A rest of one sample is left out of its epoch: batch normalization cannot be trained on one.
        """
        torch = import_torch()
        generator = torch.Generator().manual_seed(SEED)
        while True:
            order = torch.randperm(self.count, generator=generator)
            for begin in range(0, self.count, self.size):
                chosen = order[begin : begin + self.size]
                if len(chosen) > 1 or self.count == 1 or self.size == 1:
                    yield {name: value[chosen] for name, value in self.inputs.items()}, self.targets[chosen]


def batches(training: Training, names: tuple[str, ...], size: int) -> Batches:
    """Return the data as tensors; raises DataError when it lacks an input, or counts differ."""
    torch = import_torch()
    lacking = [name for name in names if name not in training.inputs]
    if lacking:
        raise DataError(
            f"The data to fine-tune with has no input {', '.join(lacking)}; name its arrays as forward does."
        )
    targets = _target_tensor(torch, training.targets)
    inputs = {name: tensor(array) for name, array in training.inputs.items()}
    counts = {int(value.shape[0]) if value.ndim else 0 for value in (*inputs.values(), targets)}
    if len(counts) != 1 or 0 in counts:
        raise DataError(
            "The inputs and targets to fine-tune with are not equally many, or none; give a target per sample."
        )
    return Batches(training, inputs, targets, size)


def loss(model: Any, data: Batches, settings: PruneSettings) -> Loss:
    """Return the loss that the settings name, or that fits what the model gives; raises DataError.

    Class numbers get the cross-entropy: of logits, of probabilities, or of their logarithms, told by the sums
    of the model's outputs; of one output a sample, the binary one. Other targets get the mean squared error.
    """
    torch = import_torch()
    if settings.loss != "auto":
        return _own(settings.loss, checks.own_loss(settings, data.training))
    output = first_output(run(model, data.first(min(data.count, 32))))
    if data.targets.is_floating_point():
        return _mean_squared(torch, output, data.targets)
    return _cross_entropy(torch, output, data.targets)


def run(model: Any, inputs: Mapping[str, Any]) -> Any:
    """Return what the model gives in inference mode; raises DataError when it cannot take the data."""
    torch = import_torch()
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), silenced():
            return model.eval()(**inputs)
    except Exception as error:
        raise DataError(
            f"The model cannot take the data to fine-tune with ({said(error)}); give it in the shape and "
            "datatype that forward expects."
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def first_output(outputs: Any) -> Any:
    """Return the first tensor of what a model gives, which classes are read from."""
    from torch.utils import _pytree

    torch = import_torch()
    for leaf in _pytree.tree_leaves(outputs):
        if isinstance(leaf, torch.Tensor):
            return leaf
    raise ModelError("The model returns no tensor, so it cannot be fine-tuned; return one from forward.")


def _target_tensor(torch: Any, targets: Array) -> Any:
    if targets.dtype.kind not in "biuf":
        raise DataError(
            f"The targets to fine-tune with are of datatype {targets.dtype}; give class numbers or floats."
        )
    if targets.dtype.kind == "f":
        return tensor(targets)
    return torch.from_numpy(targets.astype(np.int64))


def _own(reference: str, function: Callable[[Any, Any], Any]) -> Loss:
    def call(outputs: Any, targets: Any) -> Any:
        try:
            return function(targets, outputs)
        except Exception as error:
            raise ModelError(f"The loss {reference} fails with {said(error)}; repair it.") from error

    return call


def _mean_squared(torch: Any, output: Any, targets: Any) -> Loss:
    if output[0].numel() != targets[0].numel():
        raise DataError(
            f"The model gives {output[0].numel()} values a sample and the targets have {targets[0].numel()}; "
            "give targets of the same size, or class numbers as integers."
        )

    def call(outputs: Any, wanted: Any) -> Any:
        value = first_output(outputs)
        return torch.nn.functional.mse_loss(value, wanted.reshape(value.shape))

    return call


def _cross_entropy(torch: Any, output: Any, targets: Any) -> Loss:
    functional = torch.nn.functional
    single = output.ndim == 1 or output[0].numel() == 1
    classes = 2 if single else int(output.shape[1])
    if targets.ndim != output.ndim - (not single) and targets[0].numel() != 1:
        raise DataError("The class numbers to fine-tune with need one number a sample; give them as [n].")
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        raise DataError(
            f"The class numbers go from {int(targets.min())} to {int(targets.max())}, but the model has "
            f"{classes} classes; give numbers from 0, or floats for a regression."
        )
    likely = _is_probability(output, single)
    logged = not single and _is_probability(output.exp(), single)

    def call(outputs: Any, wanted: Any) -> Any:
        value = first_output(outputs)
        if single:
            kind = functional.binary_cross_entropy if likely else functional.binary_cross_entropy_with_logits
            return kind(value, wanted.reshape(value.shape).to(value.dtype))
        wanted = wanted.reshape(value.shape[0], *value.shape[2:])
        if likely:
            return functional.nll_loss(value.clamp_min(1e-7).log(), wanted)
        return (functional.nll_loss if logged else functional.cross_entropy)(value, wanted)

    return call


def _is_probability(output: Any, single: bool) -> bool:
    """Say whether values are probabilities: between 0 and 1, and of several classes with the sum 1."""
    within = bool((output >= 0).all() and (output <= 1).all())
    return within and (single or bool(((output.sum(1) - 1).abs() < 1e-3).all()))
