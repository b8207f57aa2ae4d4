"""An engine as a plug-in would bring it: multiplies, and crashes or hangs the process when the input says so.

The model file holds the factor as text. An input of 666 crashes in native code; one of 777 never returns. After
the factor it may say how the model goes wrong on inputs from 100 on, which no golden sample has: `fails=0.2` of
the runs, `slow=0.05` seconds a run, `crashes`, or `hangs`. While the file exists that CRASHING_ENGINE_ARMED
names, loading it to serve may crash the process (`load_crashes`), have it killed as if from outside
(`load_ends`), or take its parent down, too, as if the whole machine went down (`load_kills`).
"""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import ModelLoadError
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import TensorSpec
from edge_agent.engines.base import Tensors

FROM, CRASH, HANG = 100.0, 666.0, 777.0


class CrashingEngine:
    inputs = (TensorSpec("x", "FP32", (-1, 3)),)
    outputs = (TensorSpec("y", "FP32", (-1, 3)),)

    def __init__(self, factor: float, faults: Mapping[str, float]) -> None:
        self._factor = factor
        self._faults = faults
        self._owed = 0.0

    @classmethod
    def runtime(cls, settings: EngineSettings) -> str | None:
        return "crashing-engine 1.0"

    @classmethod
    def load(cls, path: Path, settings: EngineSettings) -> Self:
        factor, *words = path.read_text().split()
        faults = (word.partition("=") for word in words)
        engine = cls(float(factor), {name: float(value or 1) for name, _, value in faults})
        engine._load()
        return engine

    def run(self, inputs: Tensors, outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        first = float(inputs["x"].flat[0])
        if FROM <= first < CRASH:
            first = self._go_wrong(first)
        if first == CRASH:
            signal.raise_signal(signal.SIGSEGV)  # to this very thread, as a real fault is
        while first == HANG:
            time.sleep(60)
        return {"y": np.ascontiguousarray(inputs["x"] * np.float32(self._factor))}

    def _load(self) -> None:
        armed = Path(os.environ.get("CRASHING_ENGINE_ARMED", "/nonexistent"))
        if "edge_agent.serving.server" not in sys.orig_argv or not armed.exists():
            return
        if "load_crashes" in self._faults:
            signal.raise_signal(signal.SIGSEGV)
        if "load_kills" in self._faults:
            os.kill(os.getppid(), signal.SIGKILL)
        if self._faults.keys() & {"load_kills", "load_ends"}:
            signal.raise_signal(signal.SIGKILL)

    def _go_wrong(self, first: float) -> float:
        """Do what the model does on real inputs; return the input that stands for it."""
        time.sleep(self._faults.get("slow", 0.0))
        self._owed += self._faults.get("fails", 0.0)
        if self._owed >= 1:
            self._owed -= 1
            raise ModelLoadError("The model does not like this input.")
        return CRASH if "crashes" in self._faults else HANG if "hangs" in self._faults else first

    def close(self) -> None:
        pass
