"""The memory of this process and of the system. What is about glibc does nothing with another C library."""

import ctypes
from pathlib import Path
from typing import Final

from edge_agent.telemetry.memory import free_bytes, kilobytes

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_KEPT_BYTES: Final = 16 * 2**20
_LARGE_BYTES: Final = 8 * 2**20

_RESERVE_BYTES: Final = 16 * 2**20
"""What is left to the requests that run meanwhile, and to the other processes."""


def keep_pages_between_runs() -> None:
    """Have all threads allocate from one heap that keeps 16 MiB; to be called before there are any threads.

    glibc gives threads heaps of their own and cuts these back after every run of a model, for the next run to
    fault the pages in again: with Magika 443 page faults and 0.5 ms a run, and 20 MB more resident. What takes
    8 MiB or more still goes back at once, so that one large batch does not keep its memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def return_freed_memory() -> None:
    """Hand freed pages back to the system: glibc keeps what loading, or an unloaded model, has left (10 MB)."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def own_bytes() -> int:
    """Return the resident memory that this process shares with no file: libraries stay anyway."""
    try:
        return kilobytes(Path("/proc/self/smaps_rollup").read_text(), "Anonymous")
    except OSError:
        return kilobytes(Path("/proc/self/status").read_text(), "RssAnon")


def system_free_bytes() -> int:
    """Return what this process may still take before the system or its control group runs out of memory."""
    return free_bytes() - _RESERVE_BYTES
