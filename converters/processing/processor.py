"""Pre- and postprocessing as a recipe asks for them, in whichever format."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.errors import ConversionError
from converters.processing import onnx, plan, tflite
from converters.processing.settings import PostprocessSettings, PreprocessSettings
from converters.terms import Format


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

    def sentences(self) -> tuple[str, ...]:
        """Say for a person what the graph does with raw inputs and outputs."""
        found = []
        if (image := self.pre.image) is not None:
            found.append(
                f"Input {image.input or 'image'} takes UINT8 pixels: resized ({image.interpolation}), "
                f"{image.channels}, times {image.scale:.6g}, minus {_listed(image.mean)}, "
                f"divided by {_listed(image.std)}."
            )
        if (audio := self.pre.audio) is not None:
            found.append(
                f"Input {audio.input or 'audio'} takes INT16 samples at {audio.rate_hz} Hz, as "
                f"{audio.features}."
            )
        if self.post.softmax:
            found.append("Softmax turns the first output into probabilities.")
        if self.post.argmax:
            found.append("Output class is the number of the largest.")
        if self.post.labels:
            found.append("Output label is the name of that class.")
        return tuple(found)

    def check(self, targets: Sequence[Format]) -> None:
        """Raise ConversionError for what one of the formats cannot have."""
        for target in targets:
            if reason := plan.supports(target, self.post):
                raise ConversionError(reason)

    def add(self, target_format: Format, source: Path, target: Path) -> None:
        """Write a copy of a float file with the processing in its graph; raises like `add_processing`."""
        write = onnx.add_processing if target_format == "onnx" else tflite.add_processing
        write(source, target, self.pre, self.post, self.labels)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
