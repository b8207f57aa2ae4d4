"""What the control group of this process says of memory. Groups of version 2 alone; without one, nothing.

Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, "Memory Interface Files".
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")


def own_group(root: Path = _ROOT, membership: Path = Path("/proc/self/cgroup")) -> Path | None:
    """Return the folder of this process's group, or None where there is no version 2 with memory."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if path is None:
        return None
    group = root / path
    return group if (group / "memory.current").exists() else None


def free_bytes(group: Path, root: Path = _ROOT) -> int | None:
    """Return what the group may still take, by its own limit and those above it; None without a limit.

    Cached file pages that are not in use count as free, since the kernel drops them before it kills anything.
    """
    left = [free for folder in _upwards(group, root) if (free := _free_of(folder)) is not None]
    return min(left, default=None)


def limit_bytes(group: Path, root: Path = _ROOT) -> int | None:
    """Return the least of its own limit and those above it; None without a limit."""
    limits = [limit for folder in _upwards(group, root) if (limit := _limit_of(folder)) is not None]
    return min(limits, default=None)


def oom_kills(group: Path) -> int | None:
    """Return how many processes of the group were killed for lack of memory, None where that is not known."""
    try:
        return value_of((group / "memory.events").read_text(), "oom_kill")
    except OSError:
        return None


def value_of(text: str, key: str) -> int | None:
    """Return the value of a line `key value`, None if there is none."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return None


def _upwards(group: Path, root: Path) -> Iterator[Path]:
    yield group
    if group != root and root in group.parents:
        yield from _upwards(group.parent, root)


def _free_of(group: Path) -> int | None:
    limit = _limit_of(group)
    if limit is None:
        return None
    try:
        current = int((group / "memory.current").read_text())
        idle = value_of((group / "memory.stat").read_text(), "inactive_file") or 0
    except (OSError, ValueError):
        return None
    return max(0, limit - current + idle)


def _limit_of(group: Path) -> int | None:
    try:
        limit = (group / "memory.max").read_text().strip()
    except OSError:
        return None
    return int(limit) if limit.isdigit() else None
