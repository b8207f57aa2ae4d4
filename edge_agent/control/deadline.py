"""The time that a task may take as a whole, whatever its peer does."""

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from edge_agent.documents.errors import StoreUnreachableError

Result = TypeVar("Result")


class Deadline:
    """Ends what blocks once `limit_s` seconds have passed since it was made."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._end_s = time.monotonic() + limit_s

    def within(self, call: Callable[[], Result]) -> Result:
        """Return what a call returns, or raise what it raises; raises StoreUnreachableError when time is up.

        The timeouts of sockets bound each step, and a peer can make any number of steps. So the call has a
        thread of its own, which is left behind then and ends at its next step, or with this process.
        """
        results: SimpleQueue[tuple[Result, None] | tuple[None, BaseException]] = SimpleQueue()
        Thread(target=_work, args=(call, results), name="until the deadline", daemon=True).start()
        try:
            result, error = results.get(timeout=max(0.0, self._end_s - time.monotonic()))
        except Empty:
            raise StoreUnreachableError(
                f"The store's metadata did not come whole within {self._limit_s:g} s; trying again later, and "
                "store.metadata_deadline_s gives it longer."
            ) from None
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # one of the two is set


def _work(
    call: Callable[[], Result], results: "SimpleQueue[tuple[Result, None] | tuple[None, BaseException]]"
) -> None:
    try:
        results.put((call(), None))
    except BaseException as error:
        results.put((None, error))
