"""Which samples a conversion works with: the recipe's sections `[data]` and `[generate]`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from annotated_types import Ge

GENERATED: Final = 200
"""Generated samples: one that changes its class is half a point of agreement."""

Range = tuple[float, float]
"""Lowest and highest value to generate, both included."""


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Samples that the user gives; with no `path` they are generated."""

    path: str = ""
    """.npz, .npy, .csv, .parquet, a folder of images or of .wav files (a folder a class, or all in one), or
    `package.module:function`, which returns arrays by input name or a pair of inputs and targets."""
    evaluation: str = ""
    """Samples to evaluate with, labelled alike; the default splits `path`."""
    labels: str = "y"
    """Array or column with the class numbers, class names or target values; a folder's are its subfolders."""
    height: Annotated[int, Ge(1)] | None = None
    """In pixels, to which images of a folder are resized; left out, the model's."""
    width: Annotated[int, Ge(1)] | None = None
    """The same for the width."""
    color: Literal["rgb", "gray", "auto"] = "auto"
    """What images are read as; `auto` takes the channels of the model's input."""
    scale: float | None = None
    """What pixels of a folder (0 to 255) and audio samples (-32768 to 32767) are multiplied by; left out, 1/255
    and 1/32768 for float inputs, and nothing for integers."""
    calibration_samples: Annotated[int, Ge(8)] = 256
    """At most so many calibrate."""
    evaluation_samples: Annotated[int, Ge(8)] = 2000
    """At most so many evaluate."""
    import_from: str = "."
    """Folder that `package.module:function` names are imported from."""


@dataclass(frozen=True, slots=True)
class GenerateSettings:
    """What to draw where no data is given."""

    samples: Annotated[int, Ge(1)] = GENERATED
    """How many to draw."""
    ranges: Mapping[str, Range] = field(default_factory=dict)
    """Lowest and highest value by input name, as `{ image = [0, 255] }`; else 0 to 1, for integers 0 to 255."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape by input name, as `{ image = [1, 3, 48, 320] }`, where dimensions are free; also that of PyTorch's
    example inputs."""
