"""Pre- and postprocessing as a recipe asks for them, in whichever format."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.errors import ConversionError
from converters.frameworks.base import Format
from converters.processing import onnx, plan, tflite
from converters.processing.settings import PostprocessSettings, PreprocessSettings


@dataclass(frozen=True, slots=True)
class Processing:
    """What goes into the graph of every file of a version."""

    pre: PreprocessSettings
    post: PostprocessSettings
    labels: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Say whether nothing is to be added."""
        return self.pre == PreprocessSettings() and self.post.is_empty

    def check(self, targets: Sequence[Format]) -> None:
        """Raise ConversionError for what one of the formats cannot have."""
        for target in targets:
            if reason := plan.supports(target, self.post):
                raise ConversionError(reason)

    def add(self, target_format: Format, source: Path, target: Path) -> None:
        """Write a copy of a float file with the processing in its graph; raises like `add_processing`."""
        write = onnx.add_processing if target_format == "onnx" else tflite.add_processing
        write(source, target, self.pre, self.post, self.labels)
