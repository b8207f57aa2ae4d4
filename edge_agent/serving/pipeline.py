"""The way of an inference request: route, parse, admit, run, answer.

All bookkeeping is done on the event loop's thread, so that none of it needs a lock; only the runs themselves go
to a pool of threads, as many as there are CPUs.
"""

import asyncio
import math
import os
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

import msgspec
from numpy.typing import NDArray

from edge_agent.documents.errors import EdgeAgentError, ModelLoadError, RequestError, UnavailableError
from edge_agent.documents.plan import Plan
from edge_agent.serving import oip
from edge_agent.serving.http_messages import Reply, Response, failure
from edge_agent.serving.loader import LoadedVersion
from edge_agent.serving.router import Table
from edge_agent.serving.workers import Workers
from edge_agent.telemetry.counters import Counters, VersionCounters
from edge_agent.telemetry.health_page import LANES, HealthPage

INLINE_LIMIT_NS: Final = 100_000
"""A version whose runs take less than this runs on the loop's own thread: to hand a run to another thread and
its answer back takes 35 µs, and 120 with cold caches, so that this is about when it begins to pay."""

_MAX_WORKERS: Final = LANES // 2

_Result = dict[str, NDArray[Any]] | EdgeAgentError


class _Job(msgspec.Struct, frozen=True, gc=False):
    loaded: LoadedVersion
    counters: VersionCounters
    request: oip.InferRequest
    size_bytes: int
    started_s: float
    reply: Reply


class Pipeline:
    """Answers inference requests from the current table of versions. `random` returns points of [0, 1)."""

    def __init__(
        self, page: HealthPage, counters: Counters, queue_limit: int, random: Callable[[], float]
    ) -> None:
        self.table = Table(Plan(), ())
        self._loop = asyncio.get_running_loop()
        self._page = page
        self._counters = counters
        self._queue_limit = queue_limit
        self._random = random
        self._idle_workers = self._worker_count = min(len(os.sched_getaffinity(0)), _MAX_WORKERS)
        self._workers = Workers(self._worker_count, "infer")
        self._unloader = Workers(1, "unload")
        self._rota: deque[LoadedVersion] = deque()

    def switch(self, table: Table) -> None:
        """Serve this table from the next request on; unload what is not in it once its last run has ended."""
        left_out = set(self.table.versions) - set(table.versions)
        self.table = table
        for loaded in left_out:
            loaded.is_retired = True
            self._close_if_done(loaded)

    def infer(
        self, model: str, version: str | None, body: bytes, header_length: bytes | None, reply: Reply
    ) -> None:
        """Answer a request to a model, or to one version of it, at once or later.

        Raises NotFoundError, RequestError or UnavailableError for what cannot be begun.
        """
        started_s = perf_counter()
        if version is None:
            loaded = self.table.choose(model, self._random())
        else:
            loaded = self.table.named(model, version)
        counters = self._counters.of(model, loaded.plan.version)
        try:
            request = oip.parse(body, header_length, loaded.signature)
            size_bytes = 0
            for tensor in request.inputs.values():
                size_bytes += tensor.nbytes
            job = _Job(loaded, counters, request, size_bytes, started_s, reply)
            if not self._runs_inline(job):
                self._admit(job)
                return
        except EdgeAgentError as error:
            counters.fail(_kind(error))
            counters.observe(perf_counter() - started_s)
            raise
        self._run_inline(job)

    def _runs_inline(self, job: _Job) -> bool:
        loaded = job.loaded
        return (
            loaded.mean_run_ns < INLINE_LIMIT_NS
            and job.size_bytes <= loaded.largest_run_bytes
            and not loaded.waiting
        )

    def _run_inline(self, job: _Job) -> None:
        self._page.count(job.loaded.slot, exposures=1)
        result, run_ns = job.loaded.run(job.request.inputs, list(job.request.outputs))
        job.loaded.note_run(run_ns, job.size_bytes)
        job.reply.send(self._respond(job, result, run_ns))

    def _admit(self, job: _Job) -> None:
        """Give the job to an idle worker, or let it wait; raises UnavailableError when too many do."""
        loaded = job.loaded
        if not self._idle_workers:
            waiting = sum(len(other.waiting) for other in self.table.of_model(loaded.plan.model))
            if waiting >= self._queue_limit:
                raise UnavailableError(
                    f"{waiting} requests to model '{loaded.plan.model}' wait already; try again later.",
                    self._retry_after_s(loaded, waiting),
                )
        self._page.count(loaded.slot, exposures=1)
        loaded.in_flight += 1
        job.counters.in_flight += 1
        if self._idle_workers:
            self._start(job)
            return
        if not loaded.waiting:
            self._rota.append(loaded)
        loaded.waiting.append(job)

    def _retry_after_s(self, loaded: LoadedVersion, waiting: int) -> float:
        run_s = loaded.mean_run_ns / 1e9
        return 1.0 if run_s == math.inf else min(max(1.0, waiting * run_s / self._worker_count), 60.0)

    def _start(self, job: _Job) -> None:
        self._idle_workers -= 1
        self._workers.submit(self._work, job)

    def _work(self, job: _Job) -> None:
        """Run a job, on a worker's thread."""
        result, run_ns = job.loaded.run(job.request.inputs, list(job.request.outputs))
        self._loop.call_soon_threadsafe(self._finish, job, result, run_ns)

    def _finish(self, job: _Job, result: _Result, run_ns: int) -> None:
        self._idle_workers += 1
        job.loaded.note_run(run_ns, job.size_bytes)
        self._start_next()
        job.reply.send(self._respond(job, result, run_ns))
        self._leave(job)

    def _start_next(self) -> None:
        """Start what has waited longest of the version whose turn it is: each gets its share of the workers."""
        while self._rota and self._idle_workers:
            loaded = self._rota.popleft()
            job = loaded.waiting.popleft()
            if loaded.waiting:
                self._rota.append(loaded)
            if job.reply.is_abandoned:
                self._leave(job)
            else:
                self._start(job)

    def _leave(self, job: _Job) -> None:
        job.loaded.in_flight -= 1
        job.counters.in_flight -= 1
        self._close_if_done(job.loaded)

    def _close_if_done(self, loaded: LoadedVersion) -> None:
        if loaded.is_retired and not loaded.in_flight:
            self._unloader.submit(LoadedVersion.close, loaded)

    def _respond(self, job: _Job, result: _Result, run_ns: int) -> Response:
        """Render the answer, and count it on the health page and for the metrics."""
        error = result if isinstance(result, EdgeAgentError) else None
        if not isinstance(result, EdgeAgentError):
            try:
                response = _render(job, result)
            except RequestError as refusal:
                error = refusal
            # A plug-in's results that are none, or no memory: this client must be answered all the same.
            except Exception as failed:
                error = ModelLoadError(f"The answer cannot be written: {type(failed).__name__}: {failed}.")
        if error is not None:
            response = failure(error)
            job.counters.fail(_kind(error))
        job.counters.observe(perf_counter() - job.started_s)
        is_fault = error is not None and not isinstance(error, RequestError)
        self._page.count(job.loaded.slot, requests=1, errors=int(is_fault), run_ns=run_ns)
        return response


def _render(job: _Job, results: dict[str, NDArray[Any]]) -> Response:
    plan = job.loaded.plan
    body, header_length = oip.render(job.request, plan.model, plan.version, job.loaded.signature, results)
    if header_length is None:
        return Response(200, body)
    return Response(200, body, "application/octet-stream", ((oip.HEADER_LENGTH, str(header_length)),))


def _kind(error: EdgeAgentError) -> str:
    """Return the label under which an error is counted."""
    if isinstance(error, RequestError):
        return "request"
    return "unavailable" if isinstance(error, UnavailableError) else "engine"
