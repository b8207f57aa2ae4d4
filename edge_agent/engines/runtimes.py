"""What the engines share in dealing with their runtimes."""

import os
import re
from typing import Final

from edge_agent.documents.errors import ModelLoadError, ModelMemoryError
from edge_agent.documents.settings import EngineSettings

_CODE: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_NO_MEMORY: Final = ("bad_alloc", "Failed to allocate memory")
"""How runtimes say that they did not get memory."""


def thread_count(settings: EngineSettings) -> int:
    """Return the threads of one run: the setting, or the CPUs that this process may use."""
    return settings.threads or core_count()


def core_count() -> int:
    """Return the CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def keep_onnxruntime_silent() -> None:
    """Call before onnxruntime is imported: since 1.29 it reports its use to its maker unless this is set.

    Its own `disable_telemetry_events()` comes too late: by then it has written a device id to the home folder.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def failure(what: str, error: BaseException) -> ModelLoadError:
    """Return the error that tells what a runtime could not do, and why."""
    lacks_memory = isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)
    kind = ModelMemoryError if lacks_memory else ModelLoadError
    return kind(f"{what}: {sentence(error)}.")


def sentence(error: BaseException) -> str:
    """Return the first line of a runtime's message without code and stop, to end a sentence with."""
    lines = _CODE.sub("", str(error).strip()).splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
