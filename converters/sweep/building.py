"""The sweep's way into a build: what a recipe's model allows, and carrying a trial out."""

from pathlib import Path
from typing import Final

from converters.conversion.build import build
from converters.conversion.floats import formats_of
from converters.conversion.recipe import Recipe
from converters.formats.sources import read_source
from converters.frameworks.identify import identify_file
from converters.importing import is_importable
from converters.report.model import Package
from converters.sweep.trials import Facts

_PRUNABLE: Final = ("keras", "tf-keras")


def run_trial(recipe: Recipe) -> Package:
    """Make one version as the recipe says; raises EdgeAgentError when it comes to nothing."""
    return build(recipe)


def facts(recipe: Recipe) -> Facts:
    """Return what the recipe's model allows; raises RequestError or ModelError for what is no model."""
    framework = "torch" if is_importable(recipe.model) else identify_file(Path(recipe.model))
    if framework is not None:
        # An exported PyTorch program cannot be fine-tuned; what a factory makes can.
        prunable = is_importable(recipe.model) if framework == "torch" else framework in _PRUNABLE
        return Facts(formats_of(framework), prunable=prunable)
    source = read_source(Path(recipe.model))
    return Facts(formats_of(source.engine), precision=source.precision)
