"""What each framework's module offers: a model as it was trained, and its way into ONNX and TFLite.

A framework is imported by the functions that use it, never with its module, and runs in a worker process unless
the caller gave a live object.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from converters.arrays import Array
from converters.prune.settings import PruneSettings
from converters.terms import Advanced, Format, Origin


@dataclass(frozen=True, slots=True)
class Training:
    """What a model is fine-tuned with: arrays by input name, samples along axis 0, and their targets."""

    inputs: Mapping[str, Array]
    targets: Array
    """Class numbers [n] or target values [n, ...]."""
    import_from: str = "."
    """Folder that the module of a loss of the caller's own is imported from."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """A pruned and fine-tuned model, without wrappers or masks."""

    model: Any
    sparsity: float
    """Share of the prunable weights that are zero, or of the channels that are gone."""
    layers: Mapping[str, float]
    """The same by layer."""


class Framework(Protocol):
    """A module of this package; every function raises ModelError, ConversionError or ToolMissingError."""

    def load(self, origin: Origin) -> Any:
        """Return the live model of a file."""
        ...

    def input_names(self, model: Any) -> tuple[str, ...]:
        """Return the names of the inputs, in order, as the exported files have them."""
        ...

    def export(self, model: Any, target_format: Format, target: Path, example: Mapping[str, Array]) -> None:
        """Write the model in one of the formats, in inference mode, in float32.

        Both formats get the same names of inputs and outputs, and the first output is the one that classes are
        read from. `example` holds a batch of two by input name, empty where the model tells its own shapes.
        """
        ...

    def prune(self, model: Any, training: Training, settings: PruneSettings, advanced: Advanced) -> Pruned:
        """Return a pruned copy, fine-tuned with a fixed seed; the model that was given stays as it is."""
        ...
