"""Takes whole channels out of PyTorch modules, so that the graph becomes smaller and faster.

A chain is a layer whose output channels may go, what is computed for each channel alone behind it (batch
normalization, depthwise convolution), and the layers that read them. Chains are found in the graph of torch.fx;
what feeds additions, concatenations or the model's outputs is left whole.

Source of the method (channels of the smallest L1 norm go first): Li et al., "Pruning Filters for Efficient
ConvNets" (2017), arXiv:1608.08710.
"""

import inspect
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from converters.errors import ConversionError, said
from converters.frameworks.silence import silenced
from converters.frameworks.torch_files import import_torch
from converters.prune import schedule

_EACH_VALUE: Final = frozenset(
    {
        "ReLU",
        "ReLU6",
        "LeakyReLU",
        "ELU",
        "SELU",
        "CELU",
        "GELU",
        "SiLU",
        "Mish",
        "Hardswish",
        "Hardsigmoid",
        "Hardtanh",
        "Sigmoid",
        "Tanh",
        "Softplus",
        "Softsign",
        "Dropout",
        "Dropout1d",
        "Dropout2d",
        "Dropout3d",
        "AlphaDropout",
        "Identity",
    }
)
_EACH_CHANNEL: Final = frozenset(
    f"{kind}{dimensions}d"
    for kind in ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
    for dimensions in (1, 2, 3)
)
_FUNCTIONS: Final = frozenset(
    {
        "relu",
        "relu_",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "gelu",
        "silu",
        "mish",
        "hardswish",
        "hardsigmoid",
        "hardtanh",
        "sigmoid",
        "tanh",
        "softplus",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "contiguous",
        "clamp",
        "abs",
    }
)
_POOLS: Final = frozenset(
    f"{kind}{dimensions}d"
    for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
    for dimensions in (1, 2, 3)
)
_RESHAPES: Final = frozenset({"flatten", "view", "reshape"})


@dataclass(slots=True)
class Chain:
    """A layer and what goes with its output channels, by the names of the modules."""

    producer: str
    channels: int
    """Output channels before pruning."""
    followers: list[str] = field(default_factory=list)
    """Modules with parameters for each channel."""
    consumers: dict[str, int] = field(default_factory=dict)
    """Layers that read the channels, with how many inputs of theirs each channel has."""


class _WholeError(Exception):
    """What comes out of a layer goes where channels cannot be taken out."""


class _OutputError(_WholeError):
    """It goes to an output, whose size is the model's meaning."""


def chains(
    model: Any, example: Mapping[str, Any], excluded: Callable[[str], bool]
) -> tuple[list[Chain], list[str]]:
    """Return the chains of a model, and the layers that could begin one but have to stay whole.

    Excluded layers and those that give the outputs are in neither. Raises ConversionError when there is no
    chain, or the model cannot be traced.
    """
    graph = _traced(model, example)
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    # Weights that are read without their module count as another call.
    calls.update(node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr")
    modules = dict(model.named_modules())
    found: list[Chain] = []
    whole: list[str] = []
    for node in graph.nodes:
        if node.op != "call_module" or not _is_producer(modules[node.target]) or excluded(node.target):
            continue
        walk = _Walk(modules, calls, excluded)
        try:
            walk.enter(node)
            found.append(walk.chain)
        except _OutputError:
            continue
        except _WholeError:
            whole.append(node.target)
    if not found:
        raise ConversionError(
            "The model has no layer whose channels can be taken out (all feed additions, concatenations or "
            "outputs, or are excluded); prune with the method magnitude."
        )
    return found, list(dict.fromkeys(whole))


def shrink(model: Any, chain: Chain, sparsity: float) -> bool:
    """Leave this share of the original channels out; says whether any went."""
    torch = import_torch()
    modules = dict(model.named_modules())
    producer = modules[chain.producer]
    now = producer.weight.shape[0]
    wanted = max(1, chain.channels - round(sparsity * chain.channels))
    if wanted >= now:
        return False
    weights = producer.weight.detach().numpy()
    kept = torch.from_numpy(schedule.kept_channels(weights, 0, 1 - wanted / now).astype(np.int64))
    with torch.no_grad():
        _cut_outputs(producer, kept)
        for name in chain.followers:
            _cut_follower(modules[name], kept)
        for name, block in chain.consumers.items():
            _cut_inputs(modules[name], kept, block)
    return True


def _traced(model: Any, example: Mapping[str, Any]) -> Any:
    """Return the graph with the shape of each tensor in `meta["shape"]`."""
    torch = import_torch()

    base: Any = torch.fx.Interpreter

    class Shapes(base):  # type: ignore[misc]
        """Runs the graph and notes shapes."""

        def run_node(self, node: Any) -> Any:
            value = super().run_node(node)
            node.meta["shape"] = tuple(value.shape) if isinstance(value, torch.Tensor) else None
            return value

    modes = {module: module.training for module in model.modules()}
    try:
        with silenced(), torch.no_grad():
            unused = {
                parameter.name: parameter.default
                for parameter in inspect.signature(model.forward).parameters.values()
                if parameter.name not in example and parameter.default is not parameter.empty
            }
            traced = torch.fx.symbolic_trace(model.eval(), concrete_args=unused or None)
            inputs = [node.target for node in traced.graph.nodes if node.op == "placeholder"]
            Shapes(traced).run(*[example.get(name) for name in inputs])
            return traced.graph
    except Exception as error:
        raise ConversionError(
            f"torch.fx cannot trace the model ({said(error)}), which the pruning of channels needs; "
            "prune with the method magnitude."
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Walk:
    """Follows one layer's output through the graph; fills the chain, or raises _WholeError."""

    def __init__(
        self, modules: Mapping[str, Any], calls: Counter[Any], excluded: Callable[[str], bool]
    ) -> None:
        self._modules = modules
        self._calls = calls
        self._excluded = excluded
        self.chain = Chain("", 0)

    def enter(self, node: Any) -> None:
        """Begin with a producer's node."""
        self._touch(node.target)
        module = self._modules[node.target]
        self.chain = Chain(node.target, int(module.weight.shape[0]))
        shape = _shape(node)
        axis = len(shape) - 1 if _kind(module) == "Linear" else 1
        if self.chain.channels < 2 or (axis == 1 and _kind(module) != "Linear" and len(shape) != _rank(module)):
            raise _WholeError
        self._follow(node, axis, 1)

    def _touch(self, name: str) -> None:
        """Refuse modules that are called twice, share their weights or shall be left whole."""
        if self._calls[name] != 1 or self._excluded(name):
            raise _WholeError
        if sum(1 for other in self._modules.values() if other is self._modules[name]) != 1:
            raise _WholeError
        own = getattr(self._modules[name], "weight", None)
        if own is not None and sum(1 for m in self._modules.values() if getattr(m, "weight", None) is own) != 1:
            raise _WholeError

    def _follow(self, node: Any, axis: int, block: int) -> None:
        """Go on to all users; each channel is `block` neighbours along `axis` of what the node gives."""
        if not node.users:
            raise _WholeError
        if any(user.op == "output" for user in node.users):
            raise _OutputError
        for user in node.users:
            if len(user.all_input_nodes) != 1 and not _is_view(user):
                raise _WholeError
            if user.op == "call_module":
                self._through_module(user, node, axis, block)
            elif user.op in ("call_function", "call_method"):
                self._through_function(user, node, axis, block)
            else:
                raise _WholeError

    def _through_module(self, user: Any, node: Any, axis: int, block: int) -> None:
        module = self._modules[user.target]
        kind = _kind(module)
        if kind in _EACH_VALUE or (kind in _EACH_CHANNEL and axis == 1 and block == 1):
            self._follow(user, axis, block)
        elif kind == "Flatten":
            self._follow(user, *_flattened(node, user, axis, block))
        elif kind.startswith("BatchNorm") and axis == 1 and block == 1:
            self._touch(user.target)
            self.chain.followers.append(user.target)
            self._follow(user, axis, block)
        elif kind.startswith("Conv") and axis == 1 and block == 1:
            self._touch(user.target)
            if module.groups == 1:
                self.chain.consumers[user.target] = 1
            elif module.groups == module.in_channels == module.out_channels:
                self.chain.followers.append(user.target)
                self._follow(user, axis, block)
            else:
                raise _WholeError
        elif kind == "Linear" and axis == len(_shape(node)) - 1:
            self._touch(user.target)
            self.chain.consumers[user.target] = block
        else:
            raise _WholeError

    def _through_function(self, user: Any, node: Any, axis: int, block: int) -> None:
        name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
        if name in _FUNCTIONS or (name in _POOLS and axis == 1 and block == 1):
            self._follow(user, axis, block)
        elif name == "mean" and axis == 1 and block == 1:
            if not _averages_behind_channels(user, len(_shape(node))):
                raise _WholeError
            self._follow(user, axis, block)
        elif name in _RESHAPES:
            if name != "flatten" and not _infers_last(user):
                raise _WholeError
            self._follow(user, *_flattened(node, user, axis, block))
        elif name in ("size", "getattr"):
            self._follow_size(user)
        else:
            raise _WholeError

    def _follow_size(self, user: Any) -> None:
        """Let sizes pass that only tell the batch, `x.size(0)` or `x.shape[0]`."""
        if user.target == "size" and user.args[1:] == (0,):
            return
        whole = user.args[1:] in ((), ("shape",))
        if whole and all(read.target is operator.getitem and read.args[1] == 0 for read in user.users):
            return
        raise _WholeError


def _is_producer(module: Any) -> bool:
    kind = _kind(module)
    return kind == "Linear" or (kind in ("Conv1d", "Conv2d", "Conv3d") and module.groups == 1)


def _kind(module: Any) -> str:
    """Return the class of torch.nn that a module is; empty for others, subclasses and parametrized ones."""
    nn = import_torch().nn
    name = type(module).__name__
    plain = getattr(nn, name, None) is type(module) and not hasattr(module, "parametrizations")
    hooked = plain and (module._forward_pre_hooks or module._forward_hooks)
    return name if plain and not hooked else ""


def _rank(module: Any) -> int:
    """Return the axes of a convolution's batched output."""
    return len(module.kernel_size) + 2


def _shape(node: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] | None = node.meta.get("shape")
    if shape is None:
        raise _WholeError
    return shape


def _flattened(node: Any, user: Any, axis: int, block: int) -> tuple[int, int]:
    """Return axis and block behind a flattening of all axes but the batch."""
    before, after = _shape(node), _shape(user)
    if axis != 1 or len(after) != 2 or before[0] != after[0]:
        raise _WholeError
    return 1, block * int(np.prod(before[2:]))


def _is_view(user: Any) -> bool:
    """Say whether a node reshapes by sizes that were computed, of the batch."""
    name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
    return name in ("view", "reshape")


def _infers_last(user: Any) -> bool:
    """Say whether a view keeps no number of features: `view(n, -1)`."""
    sizes = user.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    return len(sizes) == 2 and sizes[1] == -1 and sizes[0] != -1


def _averages_behind_channels(user: Any, rank: int) -> bool:
    dims = user.kwargs.get("dim", user.args[1] if len(user.args) > 1 else None)
    dims = [dims] if isinstance(dims, int) else dims
    return isinstance(dims, list | tuple) and all(isinstance(dim, int) and dim % rank > 1 for dim in dims)


def _keep(module: Any, name: str, axis: int, kept: Any) -> None:
    """Leave only these positions of a parameter or buffer."""
    torch = import_torch()
    value = getattr(module, name, None)
    if value is None:
        return
    smaller = value.detach().index_select(axis, kept).clone()
    if isinstance(value, torch.nn.Parameter):
        setattr(module, name, torch.nn.Parameter(smaller, value.requires_grad))
    else:
        setattr(module, name, smaller)


def _cut_outputs(module: Any, kept: Any) -> None:
    _keep(module, "weight", 0, kept)
    _keep(module, "bias", 0, kept)
    setattr(module, "out_features" if _kind(module) == "Linear" else "out_channels", len(kept))


def _cut_follower(module: Any, kept: Any) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        _keep(module, name, 0, kept)
    if _kind(module).startswith("BatchNorm"):
        module.num_features = len(kept)
    else:
        module.in_channels = module.out_channels = module.groups = len(kept)


def _cut_inputs(module: Any, kept: Any, block: int) -> None:
    torch = import_torch()
    positions = (kept[:, None] * block + torch.arange(block)).reshape(-1)
    # A transposed convolution has its inputs along axis 0.
    _keep(module, "weight", 0 if "Transpose" in _kind(module) else 1, positions)
    setattr(module, "in_features" if _kind(module) == "Linear" else "in_channels", len(positions))
