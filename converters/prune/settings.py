"""How a model is pruned: the recipe's section `[prune]`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

Share = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True, slots=True)
class PruneSettings:
    """Magnitude pruning with a polynomial-decay schedule, while the model is fine-tuned on the user's data.

    Source: Zhu and Gupta, "To prune, or not to prune" (2017), arXiv:1710.01878; the defaults are those of
    tfmot's PolynomialDecay but for the end step.
    """

    method: Literal["magnitude", "channels"] = "magnitude"
    """Single weights, which shrinks what travels; or whole output channels, which shrinks the graph."""
    initial_sparsity: Share = 0.0
    """Share of the weights that is zero at `begin_step`. Channels of Keras models go all at once, before the
    first step, whatever this is."""
    final_sparsity: Share = 0.5
    """Share of the weights, or of the channels, that is gone in the end."""
    begin_step: Annotated[int, Ge(0)] = 0
    """Training step at which pruning begins; unused for channels of Keras models."""
    end_step: Annotated[int, Ge(1)] = 1000
    """Training step, one batch each, at which `final_sparsity` is reached."""
    power: Annotated[float, Gt(0)] = 3.0
    """Of the polynomial; larger ones prune more at the beginning; unused for channels of Keras models."""
    frequency: Annotated[int, Ge(1)] = 100
    """Steps between two updates of the masks; unused for channels of Keras models."""
    steps: Annotated[int, Ge(1)] | None = None
    """Steps of fine-tuning in all; left out, one and a half times `end_step`."""
    batch_size: Annotated[int, Ge(1)] = 32
    """Samples a step."""
    learning_rate: Annotated[float, Gt(0), Le(1)] = 1e-3
    """Of Adam."""
    loss: str = "auto"
    """`auto` takes cross-entropy for class numbers and mean squared error for other targets; or
    `package.module:function` of targets and outputs."""
    exclude: tuple[str, ...] = ()
    """Layers to leave whole, by name or shell pattern."""
