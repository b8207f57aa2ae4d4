"""Threads that run models."""

import queue
import threading
from collections.abc import Callable
from typing import Any

_Work = tuple[Callable[[Any], None], Any]


class Workers:
    """A fixed number of threads that call what they are given, in order.

    A third of the cost of `concurrent.futures`, whose futures nobody would look at here. The threads are
    daemons: a run that hangs in native code does not keep the process from ending.
    """

    def __init__(self, count: int, name: str) -> None:
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def submit(self, call: Callable[[Any], None], argument: Any) -> None:
        """Have `call(argument)` called by the next free thread; it must not raise."""
        self._queue.put((call, argument))

    def _work(self) -> None:
        take = self._queue.get
        while True:
            call, argument = take()
            call(argument)
            # Tensors and bodies, which an idle thread is not to keep.
            del call, argument
