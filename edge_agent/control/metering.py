"""What a sync takes from the network: counted, slowed down to the rate limit, stopped by budget and window."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from edge_agent.control.maintenance import Maintenance, shown_time, zone_of
from edge_agent.documents.errors import DownloadPausedError
from edge_agent.documents.settings import Settings
from edge_agent.policy.budget import Budget, end_of, name_of
from edge_agent.policy.token_bucket import TokenBucket
from edge_agent.store.blobs import OpenStream, Stream
from edge_agent.store.layout import StateLayout
from edge_agent.store.usage import UsageFile


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where a meter takes the time from, and how it waits."""

    unix_s: Callable[[], float] = time.time
    steady_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Meter:
    """The limits of one sync. With `at_once` neither budget nor window stop it, but what it takes is counted.

    One process meters at a time.
    """

    def __init__(
        self, settings: Settings, layout: StateLayout, *, at_once: bool = False, clocks: Clocks | None = None
    ) -> None:
        store, self._clocks = settings.store, clocks or Clocks()
        self._at_once = at_once
        self._budget = Budget(store.budget_bytes, store.budget_period) if store.budget_bytes else None
        self._usage = UsageFile(layout.usage)
        self._maintenance = Maintenance(settings.updates, self._clocks.unix_s)
        rate = store.rate_limit_bytes_per_s
        self._bucket = TokenBucket.empty(rate, self._clocks.steady_s()) if rate else None
        self._zone = zone_of("local")
        self._window_ends_s: float | None = 0.0
        self._period, self._counted_bytes = "", 0

    def count(self, size_bytes: int) -> None:
        """Count bytes that went over the network for whatever reason; never raises."""
        if self._budget is not None:
            self._turn(self._budget)
            self._counted_bytes += size_bytes

    def close(self) -> None:
        """Note what was counted, if the disk lets us."""
        if self._budget is not None and self._period:
            self._usage.put_if_possible(self._period, self._counted_bytes)

    def metered(self, open_stream: OpenStream, size_bytes: int) -> OpenStream:
        """Return a way to open the same file of `size_bytes` at most, within the limits.

        Opening and reading raise DownloadPausedError where the rest has to wait, StorageError where the use of
        a budget cannot be noted.
        """

        @contextmanager
        def opened(offset: int) -> Iterator[Stream]:
            self._admit()
            with open_stream(offset) as stream:
                # Nothing is waited for after the last byte, if it is known which that is.
                ends = size_bytes if stream.size_bytes is None else min(size_bytes, stream.size_bytes)
                chunks = self._paced(stream.chunks, ends - stream.offset)
                yield Stream(stream.offset, chunks, stream.size_bytes)

        return opened

    def _paced(self, chunks: Iterator[bytes], left_bytes: int) -> Iterator[bytes]:
        for chunk in chunks:
            yield chunk
            left_bytes -= len(chunk)
            if left_bytes > 0:
                self._wait(len(chunk))
                self._admit()

    def _wait(self, size_bytes: int) -> None:
        if self._bucket is not None:
            self._bucket, wait_s = self._bucket.take(size_bytes, self._clocks.steady_s())
            if wait_s:
                self._clocks.sleep(wait_s)

    def _admit(self) -> None:
        """Raise DownloadPausedError unless more may be fetched now."""
        if not self._at_once:
            self._admit_by_window()
        if self._budget is not None:
            self._admit_by_budget(self._budget)

    def _admit_by_window(self) -> None:
        now_s = self._clocks.unix_s()
        if self._window_ends_s is not None and now_s >= self._window_ends_s:
            self._window_ends_s = self._maintenance.download_until_s()
            if self._window_ends_s is not None and now_s >= self._window_ends_s:
                raise _outside_window(self._maintenance.downloads_resume_s())

    def _admit_by_budget(self, budget: Budget) -> None:
        self._turn(budget)
        is_spent = self._counted_bytes >= budget.limit_bytes
        if is_spent and not self._at_once:
            ends_s = end_of(budget.period, self._now()).timestamp()
            raise DownloadPausedError(
                f"The budget of {budget.words} is used up until {shown_time(ends_s)}; what came is kept, and "
                "the download goes on then.",
                "budget",
                ends_s,
            )
        if self._counted_bytes >= self._usage.used_bytes(self._period):
            leased = self._counted_bytes + budget.lease_bytes
            self._usage.put(self._period, leased if is_spent else min(leased, budget.limit_bytes))

    def _turn(self, budget: Budget) -> None:
        """Begin to count anew when the period turns."""
        name = name_of(budget.period, self._now())
        if name != self._period:
            self.close()
            self._period, self._counted_bytes = name, self._usage.used_bytes(name)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clocks.unix_s(), self._zone)


def _outside_window(resume_s: float | None) -> DownloadPausedError:
    when = (
        "a maintenance window, and none ever opens"
        if resume_s is None
        else (f"the maintenance window that opens {shown_time(resume_s)}")
    )
    return DownloadPausedError(f"Downloads wait for {when}; what came is kept.", "window", resume_s)
