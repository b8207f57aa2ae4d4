"""Which recipes are worth trying for a model. Pure."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from converters.checks.gate import Gate
from converters.conversion.recipe import Recipe
from converters.prune.settings import PruneSettings
from converters.quantize.settings import Calibration, QuantizeSettings
from converters.terms import Format

OPEN: Final = Gate(max_drop=1e9)
"""A gate that lets everything pass: a sweep shows what is lost, and a pick limits it."""

CALIBRATIONS: Final[dict[Format, tuple[Calibration, ...]]] = {
    "onnx": ("minmax", "entropy", "percentile"),
    "tflite": ("minmax", "entropy", "percentile"),
}
PRECISIONS: Final[dict[Format, tuple[str, ...]]] = {
    "onnx": ("fp32", "fp16", "dynamic", "int8"),
    "tflite": ("fp32", "fp16", "dynamic", "int8", "int16x8"),
}

_CALIBRATED: Final = ("int8", "int16x8")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a model allows."""

    formats: tuple[Format, ...]
    """What it can be brought to."""
    precision: str = "fp32"
    """What it is in; an already quantized one is only taken as it is."""
    prunable: bool = False
    precisions: Mapping[Format, tuple[str, ...]] = field(default_factory=lambda: PRECISIONS)
    calibrations: Mapping[Format, tuple[Calibration, ...]] = field(default_factory=lambda: CALIBRATIONS)
    per_tensor: bool = True
    """Whether one scale for a whole weight can be had."""
    searches: bool = True
    """Whether the layers that cost accuracy can be searched for."""

    @property
    def is_quantized(self) -> bool:
        """Say whether it was quantized before it came here."""
        return self.precision not in ("fp32", "fp16")


@dataclass(frozen=True, slots=True)
class Trial:
    """One recipe with a name that is unique for its model."""

    model: str
    """What the model is called in the sweep."""
    name: str
    recipe: Recipe


def trials(
    model: str, recipe: Recipe, facts: Facts, prune: Sequence[float] = (), max_drop: float | None = None
) -> list[Trial]:
    """Return what to try for the model of a recipe.

    The recipe's own targets, precisions and exclusions are kept to, its gate is opened. `prune` are levels of
    sparsity beside not pruning, for models that can be. Searches aim at `max_drop` points, else at the gate's.
    """
    levels: tuple[float | None, ...] = (None, *(prune if facts.prunable and recipe.data.path else ()))
    found = []
    for target in recipe.to or facts.formats:
        if target not in facts.formats:
            continue
        for sparsity in levels:
            for name, changed in _of_format(recipe, facts, target, max_drop):
                full = (
                    f"{target} {name}" if sparsity is None else f"{target} {name}, {100 * sparsity:g} % pruned"
                )
                found.append(Trial(model, full, _pruned(changed, sparsity)))
    return found


def _of_format(
    recipe: Recipe, facts: Facts, target: Format, max_drop: float | None
) -> Iterator[tuple[str, Recipe]]:
    base = dataclasses.replace(recipe, to=(target,), order=None, gate=OPEN)
    for precision in _precisions(recipe, facts, target):
        only = dataclasses.replace(base, precision=(precision,))
        if precision != "int8" or facts.is_quantized:
            yield precision, only
            continue
        yield from _static(only, recipe.quantize, facts, target)
        if facts.searches:
            # Here the gate is no gate but what the search aims at.
            aim = Gate(max_drop=recipe.gate.max_drop if max_drop is None else max_drop)
            search = dataclasses.replace(recipe.quantize, search=True)
            yield "int8 search", dataclasses.replace(only, quantize=search, gate=aim)


def _precisions(recipe: Recipe, facts: Facts, target: Format) -> list[str]:
    if facts.is_quantized:
        return [facts.precision]
    offered = [one for one in facts.precisions[target] if one != "fp32" or facts.precision == "fp32"]
    with_data = [one for one in offered if recipe.data.path or one not in _CALIBRATED]
    return [one for one in with_data if recipe.precision is None or one in recipe.precision]


def _static(
    recipe: Recipe, settings: QuantizeSettings, facts: Facts, target: Format
) -> Iterator[tuple[str, Recipe]]:
    for calibration in facts.calibrations[target]:
        changed = dataclasses.replace(settings, calibration=calibration, per_channel=True, search=False)
        yield f"int8 {calibration}", dataclasses.replace(recipe, quantize=changed)
    if facts.per_tensor:
        changed = dataclasses.replace(settings, calibration="minmax", per_channel=False, search=False)
        yield "int8 minmax per-tensor", dataclasses.replace(recipe, quantize=changed)


def _pruned(recipe: Recipe, sparsity: float | None) -> Recipe:
    if sparsity is None:
        return dataclasses.replace(recipe, prune=None)
    settings = recipe.prune or PruneSettings()
    return dataclasses.replace(recipe, prune=dataclasses.replace(settings, final_sparsity=sparsity))
