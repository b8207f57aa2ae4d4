"""Which job runs when, and on which thread.

Runs go to a pool of threads, as many as there are CPUs, and each version gets its share of them; versions that
are quicker than a hand-off to a thread run inline. All bookkeeping is done on the event loop's thread, so that
none of it needs a lock.
"""

import asyncio
import math
import os
from collections import Counter, deque
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Final, Protocol

from edge_agent.documents.errors import EdgeAgentError, UnavailableError
from edge_agent.serving.batcher import Outcome, run_alone, run_together
from edge_agent.serving.batches import decide
from edge_agent.serving.jobs import Job, Times
from edge_agent.serving.loader import LoadedVersion
from edge_agent.serving.workers import Workers
from edge_agent.telemetry.health_page import LANES

INLINE_LIMIT_NS: Final = 100_000
"""A version whose runs take less than this runs on the loop's own thread: to hand a run to another thread and
its answer back takes 35 µs, and 120 with cold caches, so that this is about when it begins to pay."""

SLOW_INLINE_NS: Final = 1_000_000
"""A run on the loop's thread that takes longer sends the version to the pool, until it is quick again."""

_MAX_WORKERS: Final = LANES // 2


class Keeper(Protocol):
    """Has versions loaded and unloaded. What is not in memory is asked for as often as a job comes for it."""

    def want(self, loaded: LoadedVersion, job: Job) -> None:
        """Have a version loaded, for which this job waits in its queue; then `Scheduler.resume` it."""
        ...

    def release(self, loaded: LoadedVersion) -> None:
        """Unload a version that is retired and has run its last job."""
        ...


class Scheduler:
    """Runs jobs. `queue_limit` bounds those that wait for one model."""

    keeper: Keeper
    """Set before the first job."""

    def __init__(self, queue_limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue_limit = queue_limit
        self._idle_workers = self._worker_count = min(len(os.sched_getaffinity(0)), _MAX_WORKERS)
        self._workers = Workers(self._worker_count, "infer")
        self._rota: deque[LoadedVersion] = deque()
        self._waiting: Counter[str] = Counter()
        self._drains: dict[LoadedVersion, asyncio.Future[None]] = {}
        self._ends: dict[LoadedVersion, asyncio.Future[None]] = {}

    def check(self, job: Job) -> None:
        """Raise UnavailableError if the job would have to wait where too many do."""
        if not (self._idle_workers and job.loaded.is_resident) and not self._runs_inline(job):
            self.check_room(job.loaded)

    def submit(self, job: Job) -> None:
        """Run the job, now or when its turn comes."""
        loaded = job.loaded
        loaded.used_ns = job.queued_ns = perf_counter_ns()
        if self._runs_inline(job):
            self._run_inline(job)
            return
        loaded.in_flight += 1
        if not loaded.is_resident:
            loaded.queue.append(job)
            self.note_waiting(loaded, 1)
            self.keeper.want(loaded, job)
            return
        if self._idle_workers and not loaded.queue and not loaded.batching.max_delay_ns:
            self._start((job,))
            return
        if not loaded.queue:
            self._rota.append(loaded)
        loaded.queue.append(job)
        self.note_waiting(loaded, 1)
        self._dispatch()

    def withdraw(self, job: Job) -> None:
        """Let a job that nobody wants any more wait no longer; one that runs already is left to its end."""
        loaded = job.loaded
        if loaded.queue.remove(job):
            if not loaded.queue and loaded.is_resident:
                self._rota.remove(loaded)
            self._forget(job)

    def check_room(self, loaded: LoadedVersion) -> None:
        """Raise UnavailableError when too many requests to the version's model wait already."""
        if self._waiting[loaded.plan.model] >= self._queue_limit:
            self._forget_unwanted(loaded)
        waiting = self._waiting[loaded.plan.model]
        if waiting >= self._queue_limit:
            raise UnavailableError(
                f"{waiting} requests to model '{loaded.plan.model}' wait already; try again later.",
                self._retry_after_s(loaded, waiting),
            )

    def note_waiting(self, loaded: LoadedVersion, change: int) -> None:
        """Count requests that wait; 1 when one more does, -1 at the end."""
        self._waiting[loaded.plan.model] += change

    def retire(self, loaded: LoadedVersion) -> None:
        """Unload a version once its last run, and its last sequence, has ended."""
        loaded.is_retired = True
        self.close_if_done(loaded)

    async def suspend(self, loaded: LoadedVersion) -> None:
        """Start no more jobs of a version, and wait for those that run: then it may be unloaded.

        Jobs that come meanwhile wait until it is resumed, as do those that waited already.
        """
        loaded.is_resident = False
        if loaded in self._rota:
            self._rota.remove(loaded)
        if loaded.running:
            drained = self._drains[loaded] = self._loop.create_future()
            await drained

    async def finish(self, loaded: LoadedVersion) -> None:
        """Wait until all jobs of a version have run, then suspend it; none may come meanwhile."""
        while loaded.in_flight and loaded.is_resident:
            done = self._ends[loaded] = self._loop.create_future()
            await done
        await self.suspend(loaded)

    def resume(self, loaded: LoadedVersion) -> None:
        """Run the jobs of a version again, as it is in memory."""
        loaded.is_resident = True
        if loaded.queue:
            self._rota.append(loaded)
            self._dispatch()

    def refuse(self, loaded: LoadedVersion, error: EdgeAgentError) -> None:
        """Answer all jobs that wait for a suspended version with an error."""
        for job in tuple(loaded.queue):
            self.refuse_one(job, error)

    def refuse_one(self, job: Job, error: EdgeAgentError) -> None:
        """Answer a job with an error if it waits for a suspended version."""
        loaded = job.loaded
        if not loaded.is_resident and loaded.queue.remove(job):
            self.note_waiting(loaded, -1)
            job.finish(error, Times(executions=0))
            self._leave(job)

    def _runs_inline(self, job: Job) -> bool:
        loaded = job.loaded
        return (
            loaded.mean_run_ns < INLINE_LIMIT_NS
            and job.size_bytes <= loaded.largest_run_bytes
            and not loaded.queue
            and loaded.is_resident
        )

    def _run_inline(self, job: Job) -> None:
        loaded = job.loaded
        result, run_ns = loaded.run(job.inputs, job.wanted)
        loaded.note_run(run_ns, job.size_bytes)
        if run_ns > SLOW_INLINE_NS:
            loaded.mean_run_ns = run_ns
        job.finish(result, Times(infer_ns=run_ns, rows=max(job.rows, 1)))

    def _retry_after_s(self, loaded: LoadedVersion, waiting: int) -> float:
        run_s = loaded.mean_run_ns / 1e9
        return 1.0 if run_s == math.inf else min(max(1.0, waiting * run_s / self._worker_count), 60.0)

    def _start(self, jobs: Sequence[Job]) -> None:
        self._idle_workers -= 1
        self._workers.submit(self._work, jobs)

    def _work(self, jobs: Sequence[Job]) -> None:
        """Run jobs of one version, on a worker's thread."""
        loaded = jobs[0].loaded
        outcomes = [run_alone(loaded, jobs[0])] if len(jobs) == 1 else run_together(loaded, jobs)
        self._loop.call_soon_threadsafe(self._finish, outcomes)

    def _finish(self, outcomes: Sequence[Outcome]) -> None:
        self._idle_workers += 1
        for job, _, times in outcomes:
            if times.executions:
                job.loaded.note_run(times.infer_ns, job.size_bytes)
        self._dispatch()
        for job, result, times in outcomes:
            job.finish(result, times)
            self._leave(job)

    def _dispatch(self) -> None:
        """Start what has waited longest of the version whose turn it is: each gets its share of the workers."""
        undecided = 0
        while self._idle_workers and undecided < len(self._rota):
            loaded = self._rota.popleft()
            jobs = self._take(loaded)
            if loaded.queue:
                self._rota.append(loaded)
            if jobs:
                undecided = 0
                self._start(jobs)
            elif loaded.queue:
                undecided += 1

    def _take(self, loaded: LoadedVersion) -> list[Job]:
        """Take what is to run next of a version; nothing if it is to wait for more, or if nobody wants it."""
        jobs: list[Job] = []
        while loaded.queue and not jobs:
            decision = decide(loaded.queue, loaded.batching, perf_counter_ns(), loaded.mean_run_ns)
            if not decision.count:
                delay_s = (decision.wait_until_ns - perf_counter_ns()) / 1e9
                self._loop.call_later(max(delay_s, 0.0), self._dispatch)
                break
            jobs = self._popped(loaded, decision.count)
        return jobs

    def _popped(self, loaded: LoadedVersion, count: int) -> list[Job]:
        """Take jobs from the front of a queue; those that nobody wants any more are forgotten."""
        jobs = []
        for _ in range(count):
            job = loaded.queue.popleft()
            if job.is_wanted:
                self.note_waiting(loaded, -1)
                jobs.append(job)
            else:
                self._forget(job)
        return jobs

    def _forget_unwanted(self, loaded: LoadedVersion) -> None:
        for job in [job for job in loaded.queue if not job.is_wanted]:
            self.withdraw(job)

    def _forget(self, job: Job) -> None:
        self.note_waiting(job.loaded, -1)
        job.drop()
        self._leave(job)

    def _leave(self, job: Job) -> None:
        loaded = job.loaded
        loaded.in_flight -= 1
        if self._drains and not loaded.running and loaded in self._drains:
            self._drains.pop(loaded).set_result(None)
        if self._ends and not loaded.in_flight and loaded in self._ends:
            self._ends.pop(loaded).set_result(None)
        self.close_if_done(loaded)

    def close_if_done(self, loaded: LoadedVersion) -> None:
        """Unload a retired version if nothing goes on on it any more."""
        if loaded.is_retired and loaded.is_idle:
            self.keeper.release(loaded)
