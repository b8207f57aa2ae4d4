"""How this process deals with the C library's memory. Everything here does nothing where it is not glibc's."""

import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8  # malloc.h


def use_one_heap() -> None:
    """Have all threads allocate from one heap; to be called before there are any.

    glibc gives threads heaps of their own and cuts these back after every run of a model, for the next run to
    fault the pages in again: with Magika 443 page faults and 0.5 ms a run, and 20 MB more resident.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Hand freed pages back to the system: glibc keeps what loading, or an unloaded model, has left (10 MB)."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
