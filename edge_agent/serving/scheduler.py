"""Which job runs when, and on which thread.

Runs go to a pool of threads, as many as there are CPUs, and each version gets its share of them; versions that
are quicker than a hand-off to a thread run inline. All bookkeeping is done on the event loop's thread, so that
none of it needs a lock.
"""

import asyncio
import math
import os
from collections import Counter, deque
from time import perf_counter_ns
from typing import Final

from edge_agent.documents.errors import UnavailableError
from edge_agent.serving.jobs import Job, Result, Times
from edge_agent.serving.loader import LoadedVersion
from edge_agent.serving.workers import Workers
from edge_agent.telemetry.health_page import LANES

INLINE_LIMIT_NS: Final = 100_000
"""A version whose runs take less than this runs on the loop's own thread: to hand a run to another thread and
its answer back takes 35 µs, and 120 with cold caches, so that this is about when it begins to pay."""

_MAX_WORKERS: Final = LANES // 2


class Scheduler:
    """Runs jobs. `queue_limit` bounds those that wait for one model."""

    def __init__(self, queue_limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue_limit = queue_limit
        self._idle_workers = self._worker_count = min(len(os.sched_getaffinity(0)), _MAX_WORKERS)
        self._workers = Workers(self._worker_count, "infer")
        self._unloader = Workers(1, "unload")
        self._rota: deque[LoadedVersion] = deque()
        self._waiting: Counter[str] = Counter()

    def check(self, job: Job) -> None:
        """Raise UnavailableError if the job would have to wait where too many do."""
        if not self._idle_workers and not self._runs_inline(job):
            self.check_room(job.loaded)

    def submit(self, job: Job) -> None:
        """Run the job, now or when its turn comes."""
        job.queued_ns = perf_counter_ns()
        if self._runs_inline(job):
            self._run_inline(job)
        else:
            self._admit(job)

    def check_room(self, loaded: LoadedVersion) -> None:
        """Raise UnavailableError when too many requests to the version's model wait already."""
        waiting = self._waiting[loaded.plan.model]
        if waiting >= self._queue_limit:
            raise UnavailableError(
                f"{waiting} requests to model '{loaded.plan.model}' wait already; try again later.",
                self._retry_after_s(loaded, waiting),
            )

    def note_waiting(self, loaded: LoadedVersion, change: int) -> None:
        """Count requests that wait for the run of another one; `change` is 1, or -1 at the end."""
        self._waiting[loaded.plan.model] += change

    def retire(self, loaded: LoadedVersion) -> None:
        """Unload a version once its last run has ended."""
        loaded.is_retired = True
        self._close_if_done(loaded)

    def _runs_inline(self, job: Job) -> bool:
        loaded = job.loaded
        return (
            loaded.mean_run_ns < INLINE_LIMIT_NS
            and job.size_bytes <= loaded.largest_run_bytes
            and not loaded.waiting
        )

    def _run_inline(self, job: Job) -> None:
        result, run_ns = job.loaded.run(job.inputs, job.wanted)
        job.loaded.note_run(run_ns, job.size_bytes)
        job.finish(result, Times(infer_ns=run_ns))

    def _admit(self, job: Job) -> None:
        loaded = job.loaded
        loaded.in_flight += 1
        if self._idle_workers:
            self._start(job)
            return
        if not loaded.waiting:
            self._rota.append(loaded)
        loaded.waiting.append(job)
        self.note_waiting(loaded, 1)

    def _retry_after_s(self, loaded: LoadedVersion, waiting: int) -> float:
        run_s = loaded.mean_run_ns / 1e9
        return 1.0 if run_s == math.inf else min(max(1.0, waiting * run_s / self._worker_count), 60.0)

    def _start(self, job: Job) -> None:
        self._idle_workers -= 1
        self._workers.submit(self._work, job)

    def _work(self, job: Job) -> None:
        """Run a job, on a worker's thread."""
        queue_ns = perf_counter_ns() - job.queued_ns
        result, run_ns = job.loaded.run(job.inputs, job.wanted)
        self._loop.call_soon_threadsafe(self._finish, job, result, Times(queue_ns=queue_ns, infer_ns=run_ns))

    def _finish(self, job: Job, result: Result, times: Times) -> None:
        self._idle_workers += 1
        job.loaded.note_run(times.infer_ns, job.size_bytes)
        self._start_next()
        job.finish(result, times)
        self._leave(job)

    def _start_next(self) -> None:
        """Start what has waited longest of the version whose turn it is: each gets its share of the workers."""
        while self._rota and self._idle_workers:
            loaded = self._rota.popleft()
            job = loaded.waiting.popleft()
            self.note_waiting(loaded, -1)
            if loaded.waiting:
                self._rota.append(loaded)
            if job.is_wanted:
                self._start(job)
            else:
                job.drop()
                self._leave(job)

    def _leave(self, job: Job) -> None:
        job.loaded.in_flight -= 1
        self._close_if_done(job.loaded)

    def _close_if_done(self, loaded: LoadedVersion) -> None:
        if loaded.is_retired and not loaded.in_flight:
            self._unloader.submit(LoadedVersion.close, loaded)
