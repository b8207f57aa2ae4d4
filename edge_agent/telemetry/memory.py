"""How much memory the system has, and has left."""

from pathlib import Path
from typing import Final

from edge_agent.telemetry import cgroups

_MEMINFO: Final = Path("/proc/meminfo")


def free_bytes() -> int:
    """Return what a process may still take before the system or its control group runs out of memory."""
    free = kilobytes(_MEMINFO.read_text(), "MemAvailable")
    group = cgroups.own_group()
    limited = None if group is None else cgroups.free_bytes(group)
    return free if limited is None else min(free, limited)


def total_bytes() -> int:
    """Return what all processes may take together, of this control group where it has a limit."""
    total = kilobytes(_MEMINFO.read_text(), "MemTotal")
    group = cgroups.own_group()
    limited = None if group is None else cgroups.limit_bytes(group)
    return total if limited is None else min(total, limited)


def kilobytes(text: str, key: str) -> int:
    """Return the value of a line `key: N kB` in bytes, 0 if there is none."""
    for line in text.splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0
