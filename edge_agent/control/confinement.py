"""What the probe takes from itself before it touches a model: privileges, network, files, time, precedence.

Memory is not limited here: address space says little of what a runtime really takes, so that RLIMIT_AS and
RLIMIT_DATA fail sound models. The supervisor watches the resident size instead.
"""

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import Final

from edge_agent.control.seccomp import refuse_network

NICE: Final = 5
"""Against a process without, it gets a quarter of a processor."""
_CPU_GRACE_S: Final = 5
_PR_SET_PDEATHSIG: Final = 1


def confine(cpu_limit_s: int) -> tuple[str, ...]:
    """Confine this process, whose threads are all still to come; return what this host has no way to, in words.

    No file grows (RLIMIT_FSIZE), no core is dumped, all threads together have so many seconds of processor
    time, the kernel's out-of-memory killer takes this process first, and it ends with its parent.
    """
    _limit(resource.RLIMIT_CORE, 0, 0)
    _limit(resource.RLIMIT_FSIZE, 0, 0)
    # At the lower one SIGXCPU says what is wrong; at the upper one the kernel sends SIGKILL, as others may.
    _limit(resource.RLIMIT_CPU, cpu_limit_s, cpu_limit_s + _CPU_GRACE_S)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):  # a matter of courtesy, no gap
        os.nice(NICE)
    gaps = []
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError as error:
        gaps.append(f"it is not the first to be killed for lack of memory ({error.strerror})")
    if (why := refuse_network()) is not None:
        gaps.append(f"the network is not cut off: {why}")
    return tuple(gaps)


def _limit(what: int, soft: int, hard: int) -> None:
    """Set a limit for good, or to what is allowed where that is less."""
    _, most = resource.getrlimit(what)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(what, (soft, hard))
