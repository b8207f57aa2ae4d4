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
    """Samples of the same kind to evaluate with; the default splits `path`."""
    labels: str = "y"
    """Array or column with the class numbers or target values."""
    height: Annotated[int, Ge(1)] | None = None
    """Images are resized to this height and width in pixels; None takes the model's."""
    width: Annotated[int, Ge(1)] | None = None
    color: Literal["rgb", "gray", "auto"] = "auto"
    scale: float | None = None
    """Pixels and audio samples are multiplied by this; None gives 1/255 for float inputs, as they are for
    integers."""
    calibration_samples: Annotated[int, Ge(8)] = 256
    evaluation_samples: Annotated[int, Ge(8)] = 2000
    import_from: str = "."
    """Folder that `package.module:function` names are imported from."""


@dataclass(frozen=True, slots=True)
class GenerateSettings:
    """What to draw where no data is given."""

    samples: Annotated[int, Ge(1)] = GENERATED
    ranges: Mapping[str, Range] = field(default_factory=dict)
    """By input name."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By input name, where dimensions are free; also the shape of example inputs for PyTorch."""
