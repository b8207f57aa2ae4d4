"""The memory that a model takes in a worker, measured by the kernel.

`VmHWM` in /proc/self/status is the largest resident set since the process began or, on Linux 4.0 and later,
since 5 was written to /proc/self/clear_refs (proc_pid_clear_refs(5)). What is resident before a model is
loaded, that is the interpreter, numpy and the runtime's library, does not count: a device has that once for all
its models.
What the runtime sets up for its first model does: about 11 MB in onnxruntime 1.32, 4 MB in LiteRT 2.3.
"""

import gc
import importlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_agent.engines.runtimes import keep_onnxruntime_silent

_STATUS: Final = Path("/proc/self/status")
_CLEAR_REFS: Final = Path("/proc/self/clear_refs")
_FORGET_PEAK: Final = "5"

_LIBRARIES: Final = {
    "onnxruntime": "onnxruntime",
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}


def begin(runtime: str) -> int:
    """Import a runtime's library, start the peak afresh and return the bytes that are resident now.

    A library that cannot be imported, or of an engine that is not known here, is left to the engine: then it
    counts as the model's.
    """
    keep_onnxruntime_silent()
    # The engine imports it again and says what is wrong with it.
    with suppress(Exception):
        importlib.import_module(_LIBRARIES[runtime])
    gc.collect()
    try:
        _CLEAR_REFS.write_text(_FORGET_PEAK)
    except OSError:
        # Without it the peak of the imports remains, which is hardly above what stays resident.
        return _status_bytes("VmHWM")
    return _status_bytes("VmRSS")


def added(before_bytes: int) -> int:
    """Return by how many bytes the resident set has been larger than `before_bytes` at its peak; 0 at least."""
    return max(0, _status_bytes("VmHWM") - before_bytes)


def _status_bytes(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    return 0
