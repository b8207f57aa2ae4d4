"""What a model is calibrated and evaluated with. A sample is one run of the model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Sample

Targets = NDArray[Any]
"""Class numbers, int64 [n], or values, float64 [n, ...]."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples and, where known, what the model should answer to each."""

    inputs: tuple[Sample, ...]
    targets: Targets | None = None
    generated: bool = False

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """The class number of each sample, None where the targets are values or missing."""
        return classes_of(self.targets)

    def take(self, indexes: NDArray[np.intp]) -> "Samples":
        """Return the samples at these positions."""
        targets = None if self.targets is None else self.targets[indexes]
        return Samples(tuple(self.inputs[index] for index in indexes), targets, self.generated)


@dataclass(frozen=True, slots=True)
class Split:
    """Samples for calibration, empty when none is needed, and others for evaluation."""

    calibration: Samples
    evaluation: Samples


def classes_of(targets: Targets | None) -> NDArray[np.int64] | None:
    """Return the targets if they are class numbers, else None."""
    return targets if targets is not None and targets.dtype.kind == "i" else None
