"""Writes a framework's model and a pruned copy of it to files, in a worker or where the live object is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from converters.arrays import Array
from converters.errors import DataError
from converters.frameworks.base import Framework, Training
from converters.terms import Advanced, Format
from converters.workers import messages
from edge_agent.documents.errors import EdgeAgentError

TARGETS: Final = "y"
"""Name of the targets among the arrays of a request."""
EXAMPLES: Final = 2


def export(framework: Framework, model: Any, ask: messages.Export) -> messages.Exported:
    """Export to every target; raises like the framework's functions where none can be written."""
    return messages.Exported(failures=_export(framework, model, ask.targets, _read(ask.data)))


def prune(framework: Framework, model: Any, ask: messages.Prune, advanced: Advanced) -> messages.Pruned:
    """Prune, fine-tune and export the pruned copy; raises like the framework's functions."""
    arrays = _read(ask.data)
    targets = arrays.pop(TARGETS, None)
    if targets is None:
        raise DataError(
            "Pruning fine-tunes the model, so it needs --data with the class numbers or target values too."
        )
    training = Training(arrays, targets, ask.origin.import_from)
    pruned = framework.prune(model, training, ask.settings, advanced)
    example = {name: array[:EXAMPLES] for name, array in arrays.items()}
    failures = _export(framework, pruned.model, ask.targets, example)
    return messages.Pruned(sparsity=pruned.sparsity, layers=dict(pruned.layers), failures=failures)


def _export(
    framework: Framework, model: Any, targets: Mapping[Format, str], example: Mapping[str, Array]
) -> dict[Format, str]:
    """Export to each target and return what failed; raises when all did."""
    errors: dict[Format, EdgeAgentError] = {}
    for target_format, target in targets.items():
        try:
            framework.export(model, target_format, Path(target), example)
        except EdgeAgentError as error:
            errors[target_format] = error
    if len(errors) == len(targets):
        raise next(iter(errors.values()))
    return {target_format: str(error) for target_format, error in errors.items()}


def _read(path: str) -> dict[str, Array]:
    if not path:
        return {}
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def example_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Return two FP32 samples of zeros by input name, for a model whose shapes nothing else tells."""
    return {name: np.zeros((EXAMPLES, *shape[1:]), np.float32) for name, shape in shapes.items()}
