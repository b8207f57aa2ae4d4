"""How variants are scored: the recipe's section `[evaluate]`."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """Which metric says how good a model is."""

    metric: str = "auto"
    """`accuracy`, `top-k`, `f1` (macro), `mae`, `rmse`, `agreement` (with the float model), or
    `package.module:function` of answers by output name and targets, higher is better; `auto` takes accuracy for
    class numbers, `mae` for other targets and agreement without any."""
    top_k: Annotated[int, Ge(1)] = 5
    """The `k` of `top-k`."""
    import_from: str = "."
    """Folder that a function's module is imported from."""
