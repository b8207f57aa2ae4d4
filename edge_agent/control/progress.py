"""How far the downloads of a sync are, told a few times a second."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from edge_agent.documents.ipc import SyncProgress
from edge_agent.policy.transfer_rate import TransferRate

Report = Callable[[SyncProgress], None]

_INTERVAL_S: Final = 0.25


class Progress:
    """Counts bytes, and says that work goes on: whoever hears nothing for long takes a sync for stuck."""

    def __init__(self, report: Report, total_bytes: int = 0) -> None:
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self._report = report
        self._reported_s = 0.0
        self._step = ""
        self._rate = TransferRate(((time.monotonic(), 0),))

    def add(self, size_bytes: int) -> None:
        """Count bytes that came; none is for work on what is here."""
        self.done_bytes += size_bytes
        self._rate = self._rate.seen(time.monotonic(), self.done_bytes)
        self._tell("Downloading", is_last=size_bytes > 0 and self.done_bytes == self.total_bytes)

    def correct(self, size_bytes: int) -> None:
        """Count so many more bytes, or fewer, among those that have to come."""
        self.total_bytes += size_bytes
        self._tell("Downloading", is_last=self.done_bytes == self.total_bytes)

    def work_on(self, step: str) -> None:
        """Say that a step without downloads still goes on."""
        self._tell(step)

    def through(self, step: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces that a step makes, and say that it goes on."""
        for piece in pieces:
            self.work_on(step)
            yield piece

    def _tell(self, step: str, *, is_last: bool = False) -> None:
        now_s = time.monotonic()
        if is_last or step != self._step or now_s - self._reported_s >= _INTERVAL_S:
            self._reported_s, self._step = now_s, step
            self._report(SyncProgress(step, self.done_bytes, self.total_bytes, self._rate.bytes_per_s))
