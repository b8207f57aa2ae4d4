"""Whether the kernel has killed something of late as memory ran out.

Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html, "memory.events"; `oom_kill` of /proc/vmstat, which
counts the kills in all of the system, by a limit of any group or without one, since Linux 4.13.
"""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_agent.telemetry import cgroups

RECENT_S: Final = 10.0
_VMSTAT: Final = Path("/proc/vmstat")


def count(group: Path | None, vmstat: Path = _VMSTAT) -> int | None:
    """Return how many processes of the control group were killed for lack of memory; of all of the system where
    there is no group that counts. None where the kernel does not say."""
    found = cgroups.oom_kills(group) if group is not None else None
    if found is not None:
        return found
    try:
        return cgroups.value_of(vmstat.read_text(), "oom_kill")
    except OSError:
        return None


class OomKills:
    """The kills since the last look but one: of the last ten or twenty seconds, so that an old one explains no
    new end of a process."""

    def __init__(
        self, counted: Callable[[], int | None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        group = cgroups.own_group()
        self._count = counted or (lambda: count(group))
        self._clock = clock
        self._looks: deque[tuple[float, int | None]] = deque(maxlen=2)
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._looks.clear()
        self._looks.append((self._clock(), self._count()))

    def look(self) -> None:
        """Move on; to be called every now and then."""
        if self._clock() - self._looks[-1][0] >= RECENT_S:
            self._looks.append((self._clock(), self._count()))

    @property
    def were_any(self) -> bool:
        """Whether there were any of late."""
        before, now = self._looks[0][1], self._count()
        return before is not None and now is not None and now > before
