"""Events about what others do wrong, each told once in a while: a flood of them must not flood the log."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from edge_agent.control.journal import Journal

REPEAT_S: Final = 3600.0
"""How long the same complaint is not told again."""
BURST: Final = 20
"""Different complaints that are told within a minute."""
_REMEMBERED: Final = 500


class Complaints:
    """Records warnings; the same one once an hour, and few different ones a minute."""

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._clock = clock
        self._told: OrderedDict[str, float] = OrderedDict()

    def tell(self, message: str) -> None:
        """Record one sentence as a warning, unless that was done lately or too much is wrong at once."""
        now_s = self._clock()
        if now_s - self._told.get(message, -REPEAT_S) < REPEAT_S:
            return
        if sum(now_s - told_s < 60.0 for told_s in self._told.values()) >= BURST:
            return
        self._told[message] = now_s
        self._told.move_to_end(message)
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        self._journal.record("warning", message)
