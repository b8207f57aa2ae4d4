"""Words that all rooms share: formats, frameworks, where a model lies, who hears of progress. Plain values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Format = Literal["onnx", "tflite"]
FrameworkName = Literal["keras", "tf-keras", "saved-model", "torch", "scikit-learn"]

Advanced = Callable[[float], None]
"""Hears the share of a step that is done, 0 to 1."""

Progress = Callable[[str, float], None]
"""Hears what is being done and the share of the whole that is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a framework's model lies."""

    framework: FrameworkName
    path: str
    """A file or folder; for PyTorch also `package.module:factory`."""
    weights: str = ""
    """The state dict that goes into what a factory returns."""
    import_from: str = "."
    """Folder that the modules of a factory and of a loss are imported from."""
    trust_pickle: bool = False


def unheard(share: float) -> None:
    """Hear of a step's share where nobody asks."""
