"""What the settings name of a model and of the caller's code: layers to leave whole, and a loss."""

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from converters.frameworks.base import Training
from converters.importing import imported, is_importable
from converters.prune.settings import PruneSettings
from edge_agent.documents.errors import RequestError


def check(settings: PruneSettings, names: Sequence[str]) -> None:
    """Raise RequestError for a schedule that goes backwards, in steps or in sparsity, or an unknown pattern."""
    if settings.begin_step >= settings.end_step:
        raise RequestError(
            f"prune.begin_step is {settings.begin_step} and prune.end_step {settings.end_step}; the end must "
            "come later."
        )
    if settings.initial_sparsity > settings.final_sparsity:
        raise RequestError(
            f"prune.initial_sparsity is {settings.initial_sparsity:g} and prune.final_sparsity "
            f"{settings.final_sparsity:g}; weights that are gone do not come back, so begin with less."
        )
    for pattern in settings.exclude:
        if not fnmatch.filter(names, pattern):
            raise RequestError(
                f"prune.exclude has '{pattern}', which no layer is named; it has: {', '.join(names)}."
            )


def is_excluded(name: str, settings: PruneSettings) -> bool:
    """Say whether a layer is to be left whole."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in settings.exclude)


def own_loss(settings: PruneSettings, training: Training) -> Callable[..., Any]:
    """Import the caller's loss, of targets and outputs; raises RequestError."""
    if not is_importable(settings.loss):
        raise RequestError(f"prune.loss is '{settings.loss}'; give auto or package.module:function.")
    return imported(settings.loss, Path(training.import_from))
