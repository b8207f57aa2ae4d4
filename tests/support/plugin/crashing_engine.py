"""An engine as a plug-in would bring it: multiplies, and crashes or hangs the process when the input says so.

The model file holds the factor as text. An input of 666 crashes in native code; one of 777 never returns.
"""

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import TensorSpec
from edge_agent.engines.base import Tensors

CRASH, HANG = 666.0, 777.0


class CrashingEngine:
    inputs = (TensorSpec("x", "FP32", (-1, 3)),)
    outputs = (TensorSpec("y", "FP32", (-1, 3)),)

    def __init__(self, factor: float) -> None:
        self._factor = factor

    @classmethod
    def runtime(cls, settings: EngineSettings) -> str | None:
        return "crashing-engine 1.0"

    @classmethod
    def load(cls, path: Path, settings: EngineSettings) -> Self:
        return cls(float(path.read_text()))

    def run(self, inputs: Tensors, outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        first = float(inputs["x"].flat[0])
        if first == CRASH:
            signal.raise_signal(signal.SIGSEGV)  # to this very thread, as a real fault is
        while first == HANG:
            time.sleep(60)
        return {"y": np.ascontiguousarray(inputs["x"] * np.float32(self._factor))}

    def close(self) -> None:
        pass
