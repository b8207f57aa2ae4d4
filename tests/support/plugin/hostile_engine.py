"""An engine that does to its process what the model file says: one word, and what it needs.

It multiplies by 2 otherwise. What it does, it does by libc where that makes a difference, as native code would.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import ModelLoadError
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import TensorSpec
from edge_agent.engines.base import Tensors

LIBC = ctypes.CDLL(None, use_errno=True)


class HostileEngine:
    inputs = (TensorSpec("x", "FP32", (-1, 3)),)
    outputs = (TensorSpec("y", "FP32", (-1, 3)),)

    def __init__(self, word: str, rest: str) -> None:
        self._word = word
        self._rest = rest

    @classmethod
    def runtime(cls, settings: EngineSettings) -> str | None:
        return "hostile-engine 1.0"

    @classmethod
    def load(cls, path: Path, settings: EngineSettings) -> Self:
        word, _, rest = path.read_text().strip().partition(" ")
        if word == "datatype":
            cls.outputs = (TensorSpec("y", "INT8", (-1, 3)),)
        if word == "crash-on-load":
            ctypes.string_at(0)
        return cls(word, rest)

    def run(self, inputs: Tensors, outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        y = np.ascontiguousarray(inputs["x"] * np.float32(2))
        changed = _DEEDS[self._word](self._rest)
        return {"y": y if changed is None else changed}

    def close(self) -> None:
        pass


def _reach_out() -> None:
    """Try what the probe may not, from a new thread, too; the error says how that went."""
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(LIBC.socket(2, 1, 0)), name="native")
    thread.start()
    thread.join()
    results += [LIBC.socket(family, 1, 0) for family in (1, 2, 10, 16)]
    results.append(LIBC.kill(os.getppid(), 0))
    results.append(LIBC.syscall(425, 8, None))  # io_uring_setup has one number everywhere
    raise ModelLoadError(f"What it tried gave {set(results)}, errno {ctypes.get_errno()}.")


def _write(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.write(descriptor, b"x")
    except OSError as error:
        raise ModelLoadError(f"It cannot write: {error.strerror}.") from error


def _burn() -> None:
    while True:
        pass


def _eat() -> None:
    kept = []
    while True:
        kept.append(np.ones(2**20, np.uint64))


_DEEDS: dict[str, Callable[[str], Any]] = {
    "answer": lambda _: None,
    "datatype": lambda _: None,
    "crash": lambda _: ctypes.string_at(0),
    "abort": lambda _: LIBC.abort(),
    "exit": lambda _: os._exit(3),
    "hang": lambda _: time.sleep(3600),
    "slow": lambda seconds: time.sleep(float(seconds)),
    "burn": lambda _: _burn(),
    "eat": lambda _: _eat(),
    "nan": lambda _: np.full((1, 3), np.nan, np.float32),
    "shape": lambda _: np.zeros((1, 4), np.float32),
    "socket": lambda _: _reach_out(),
    "write": _write,
}
