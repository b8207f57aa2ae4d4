"""Pruning of PyTorch modules while they are fine-tuned: single weights by magnitude, or whole channels.

Source: Zhu and Gupta, "To prune, or not to prune" (2017), arXiv:1710.01878. torch.nn.utils.prune is not used:
it replaces parameters by reparametrizations, which would have to be stripped again.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from converters.errors import ConversionError, said
from converters.frameworks.base import Pruned, Training
from converters.frameworks.torch_files import import_torch
from converters.frameworks.torch_program import input_names
from converters.prune import checks, schedule, torch_channels, torch_training
from converters.prune.settings import PruneSettings
from converters.terms import Advanced
from edge_agent.documents.errors import EdgeAgentError

_SMALLEST_STEP = 0.01
"""Shares of the work between two reports of progress."""


def prune(model: Any, training: Training, settings: PruneSettings, advanced: Advanced) -> Pruned:
    """Return a copy on the CPU, pruned and fine-tuned; the same inputs give the same weights on one machine.

    Raises ConversionError when there is nothing to prune, DataError when the data does not fit.
    """
    torch = import_torch()
    checks.check(settings, [name for name, _ in model.named_modules() if name])
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        copied = _copy(model)
        data = torch_training.batches(training, input_names(copied), settings.batch_size)
        torch.manual_seed(torch_training.SEED)
        if settings.method == "channels":
            names = _prune_channels(copied, data, settings, advanced)
            counted = _lost_channels(model, copied, names)
        else:
            _prune_weights(copied, data, settings, advanced)
            counted = _zeros(prunable(copied, settings))
        _plain(model, copied)
        return _result(copied, counted)


def prunable(model: Any, settings: PruneSettings) -> dict[str, Any]:
    """Return the Linear and convolution modules whose weights may go, by name; shared weights once."""
    nn = import_torch().nn
    kinds = (
        nn.Linear,
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    )
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = getattr(module, "_parameters", {}).get("weight")
        if not isinstance(module, kinds) or own is None or checks.is_excluded(name, settings):
            continue
        if id(own) not in seen:
            seen.add(id(own))
            found[name] = module
    return found


def _copy(model: Any) -> Any:
    try:
        return copy.deepcopy(model).to("cpu").float()
    except Exception as error:
        raise ConversionError(
            f"The model cannot be copied, which pruning needs ({said(error)}); give package.module:factory."
        ) from error


def _prune_weights(
    model: Any, data: torch_training.Batches, settings: PruneSettings, advanced: Advanced
) -> None:
    torch = import_torch()
    layers = prunable(model, settings)
    if not layers:
        raise ConversionError(
            "The model has no Linear or convolution weights to prune that are not excluded; prune another one."
        )
    masks: dict[str, Any] = {}

    def apply() -> None:
        with torch.no_grad():
            for name, mask in masks.items():
                # Not times 0, which leaves negative zeros.
                layers[name].weight.masked_fill_(~mask, 0.0)

    def update(step: int) -> bool:
        share = schedule.sparsity_at(step, settings)
        for name, layer in layers.items():
            weights = layer.weight.detach().numpy()
            masks[name] = torch.from_numpy(schedule.magnitude_mask(weights, share))
        apply()
        return False

    _train(model, data, settings, update, apply, advanced)


def _prune_channels(
    model: Any, data: torch_training.Batches, settings: PruneSettings, advanced: Advanced
) -> list[str]:
    """Return the layers that could lose channels, also those that had to stay whole, in the model's order."""
    chains, whole = torch_channels.chains(
        model, data.first(min(2, data.count)), lambda name: checks.is_excluded(name, settings)
    )

    def update(step: int) -> bool:
        share = schedule.sparsity_at(step, settings)
        shrunk = [torch_channels.shrink(model, chain, share) for chain in chains]
        return any(shrunk)

    _train(model, data, settings, update, lambda: None, advanced)
    # The last shapes have to work together in every branch that inference takes.
    torch_training.run(model, data.first(min(2, data.count)))
    considered = {*whole, *(chain.producer for chain in chains)}
    return [name for name, _ in model.named_modules() if name in considered]


def _train(
    model: Any,
    data: torch_training.Batches,
    settings: PruneSettings,
    update: Callable[[int], bool],
    repair: Callable[[], None],
    advanced: Advanced,
) -> None:
    """Run the steps of the schedule; `update` prunes and tells whether parameters were replaced.

    `repair` runs after each step of the optimizer.
    """
    measure = torch_training.loss(model, data, settings)
    steps = schedule.steps_of(settings)
    optimizer = _optimizer(model, settings)
    modes = {module: module.training for module in model.modules()}
    model.train()
    told = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step, (inputs, targets) in zip(range(steps), data.shuffled(), strict=False):
            if schedule.updates_at(step, settings) and update(step):
                optimizer = _optimizer(model, settings)
            _step(model, optimizer, measure, inputs, targets)
            repair()
            if (step + 1) / steps - told >= _SMALLEST_STEP or step + 1 == steps:
                told = (step + 1) / steps
                advanced(told)
    for module, mode in modes.items():
        module.training = mode


def _optimizer(model: Any, settings: PruneSettings) -> Any:
    """Return Adam of the parameters that the user left to be trained; of all if all are frozen."""
    torch = import_torch()
    parameters = list(model.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        model.requires_grad_(True)
    return torch.optim.Adam(
        [parameter for parameter in parameters if parameter.requires_grad], lr=settings.learning_rate
    )


def _step(model: Any, optimizer: Any, measure: torch_training.Loss, inputs: Any, targets: Any) -> None:
    try:
        optimizer.zero_grad()
        value = measure(model(**inputs), targets)
        value.backward()
        optimizer.step()
    except EdgeAgentError:
        raise
    except Exception as error:
        raise ConversionError(
            f"The model cannot be fine-tuned ({said(error)}); repair its forward in training mode, or "
            "prune it in your own training."
        ) from error
    if not bool(value.isfinite().all()):
        raise ConversionError(
            "The loss became infinite or NaN while fine-tuning; lower the learning rate, or scale the data."
        )


def _plain(original: Any, model: Any) -> None:
    """Leave no gradients, and let be trained what the user let be."""
    for parameter, before in zip(model.parameters(), original.parameters(), strict=True):
        parameter.grad = None
        parameter.requires_grad_(before.requires_grad)


def _result(model: Any, counted: Mapping[str, tuple[int, int]]) -> Pruned:
    """Return the result with its sparsity; `counted` has what is gone and what there was, by layer."""
    gone, total = (sum(count[index] for count in counted.values()) for index in (0, 1))
    layers = {name: lost / size for name, (lost, size) in counted.items()}
    return Pruned(model, gone / total if total else 0.0, layers)


def _zeros(layers: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    return {name: (int((layer.weight == 0).sum()), layer.weight.numel()) for name, layer in layers.items()}


def _lost_channels(original: Any, model: Any, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    before, now = dict(original.named_modules()), dict(model.named_modules())
    sizes = {name: int(before[name].weight.shape[0]) for name in names}
    return {name: (size - int(now[name].weight.shape[0]), size) for name, size in sizes.items()}
