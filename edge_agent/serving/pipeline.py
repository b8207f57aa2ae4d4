"""The way of an inference request: parse, assign, cache, admit, run, answer.

All bookkeeping is done on the event loop's thread, so that none of it needs a lock; only the runs themselves go
to a pool of threads, as many as there are CPUs.
"""

import asyncio
import math
import os
from collections import deque
from collections.abc import Callable
from time import perf_counter, perf_counter_ns
from typing import Final

import msgspec

from edge_agent.documents.binary_tensors import HEADER_LENGTH
from edge_agent.documents.errors import EdgeAgentError, ModelLoadError, RequestError, UnavailableError
from edge_agent.documents.plan import Plan
from edge_agent.policy.assignment import unit_of
from edge_agent.serving import oip
from edge_agent.serving.cache import ResultCache, Results
from edge_agent.serving.http_messages import Reply, Response, failure
from edge_agent.serving.loader import LoadedVersion
from edge_agent.serving.predictions import PredictionIds
from edge_agent.serving.router import Choice, Route, Table
from edge_agent.serving.workers import Workers
from edge_agent.telemetry.counters import Counters, VersionCounters
from edge_agent.telemetry.health_page import LANES, HealthPage

INLINE_LIMIT_NS: Final = 100_000
"""A version whose runs take less than this runs on the loop's own thread: to hand a run to another thread and
its answer back takes 35 µs, and 120 with cold caches, so that this is about when it begins to pay."""

_MAX_WORKERS: Final = LANES // 2

_Result = Results | EdgeAgentError


class _Job(msgspec.Struct, frozen=True, gc=False):
    """A request on its way. `key` is what its result is remembered by, None where it bypasses the cache;
    `followers` are equal requests that wait for its run."""

    choice: Choice
    counters: VersionCounters
    request: oip.InferRequest
    size_bytes: int
    started_s: float
    reply: Reply
    key: bytes | None
    followers: "list[_Job]"

    @property
    def loaded(self) -> LoadedVersion:
        return self.choice.loaded

    @property
    def is_abandoned(self) -> bool:
        return self.reply.is_abandoned and all(follower.reply.is_abandoned for follower in self.followers)


class Pipeline:
    """Answers inference requests from the current table of versions. `random` returns points of [0, 1)."""

    def __init__(
        self,
        page: HealthPage,
        counters: Counters,
        cache: ResultCache,
        ids: PredictionIds,
        queue_limit: int,
        random: Callable[[], float],
    ) -> None:
        self.table = Table(Plan(), (), "")
        self._loop = asyncio.get_running_loop()
        self._page = page
        self._counters = counters
        self._cache = cache
        self._ids = ids
        self._queue_limit = queue_limit
        self._random = random
        self._leaders: dict[bytes, _Job] = {}
        self._idle_workers = self._worker_count = min(len(os.sched_getaffinity(0)), _MAX_WORKERS)
        self._workers = Workers(self._worker_count, "infer")
        self._unloader = Workers(1, "unload")
        self._rota: deque[LoadedVersion] = deque()

    def switch(self, table: Table) -> None:
        """Serve this table from the next request on; unload what is not in it once its last run has ended."""
        left_out = set(self.table.versions) - set(table.versions)
        self.table = table
        self._cache.keep({loaded.plan.sha256 for loaded in table.versions})
        for loaded in left_out:
            loaded.is_retired = True
            self._close_if_done(loaded)

    def infer(
        self,
        model: str,
        version: str | None,
        body: bytes,
        header_length: bytes | None,
        unit: bytes | None,
        reply: Reply,
    ) -> None:
        """Answer a request to a model, or to one version of it, at once or later.

        `unit` is the value of the header Edge-Unit. Raises NotFoundError, RequestError or UnavailableError for
        what cannot be begun.
        """
        started_s = perf_counter()
        route = self.table.route(model)
        # What cannot be read is assigned to nobody; it counts for the version that it would most likely be.
        first = route.versions[0] if version is None else route.named(version)
        try:
            unbound = oip.read(body, header_length)
            choice = self._choose(route, version, unbound, unit)
        except EdgeAgentError as error:
            _count_refusal(self._counters.of(model, first.plan.version), error, started_s)
            raise
        counters = self._counters.of(model, choice.loaded.plan.version)
        try:
            job = self._job(choice, counters, unbound, started_s, reply)
            if not self._is_spared(job):
                self._begin(job)
        except EdgeAgentError as error:
            counters.note_arm(choice.arm)
            _count_refusal(counters, error, started_s)
            raise

    def _choose(self, route: Route, version: str | None, unbound: oip.Unbound, header: bytes | None) -> Choice:
        unit = unit_of(unbound.parameters.get("unit"), header)
        if version is None:
            return route.assign(unit, self._random)
        return route.direct(version, unit, self._random)

    def _job(
        self, choice: Choice, counters: VersionCounters, unbound: oip.Unbound, started_s: float, reply: Reply
    ) -> _Job:
        request = oip.bind(unbound, choice.loaded.signature)
        size_bytes = 0
        for tensor in request.inputs.values():
            size_bytes += tensor.nbytes
        key = self._key(choice, request, size_bytes)
        return _Job(choice, counters, request, size_bytes, started_s, reply, key, [])

    def _key(self, choice: Choice, request: oip.InferRequest, size_bytes: int) -> bytes | None:
        """Return what the request's result is remembered by, None if it bypasses the cache."""
        plan, signature = choice.loaded.plan, choice.loaded.signature
        worth = self._cache.worth(plan.sha256)
        if not oip.flag(request.parameters, "cache", True) or not worth.allow():
            return None
        started_ns = perf_counter_ns()
        key = self._cache.key(plan, choice.policy, signature, request, size_bytes)
        if key is not None:
            worth.note_lookup(perf_counter_ns() - started_ns)
        return key

    def _is_spared(self, job: _Job) -> bool:
        """Answer the job from the cache, or have it wait for the run of an equal one, if there is either."""
        if job.key is None:
            job.counters.cache_bypasses += 1
            return False
        results = self._cache.get(job.key, job.choice.policy.cache_ttl_s)
        if results is not None:
            self._note_hit(job)
            job.reply.send(self._respond(job, results, 0, "hit"))
            return True
        leader = self._leaders.get(job.key)
        if leader is not None:
            self._check_queue(job.loaded)
            self._note_hit(job)
            leader.followers.append(job)
            job.loaded.followers += 1
            job.counters.in_flight += 1
            return True
        job.counters.cache_misses += 1
        return False

    def _note_hit(self, job: _Job) -> None:
        loaded = job.loaded
        job.counters.cache_hits += 1
        self._page.count(loaded.slot, exposures=int(job.choice.is_exposure))
        if loaded.mean_run_ns < math.inf:
            self._cache.worth(loaded.plan.sha256).note_saved(loaded.mean_run_ns)

    def _begin(self, job: _Job) -> None:
        if self._runs_inline(job):
            self._run_inline(job)
        else:
            self._admit(job)

    def _runs_inline(self, job: _Job) -> bool:
        loaded = job.loaded
        return (
            loaded.mean_run_ns < INLINE_LIMIT_NS
            and job.size_bytes <= loaded.largest_run_bytes
            and not loaded.waiting
        )

    def _run_inline(self, job: _Job) -> None:
        self._page.count(job.loaded.slot, exposures=int(job.choice.is_exposure))
        result, run_ns = job.loaded.run(job.request.inputs, list(job.request.outputs))
        job.loaded.note_run(run_ns, job.size_bytes)
        self._answer(job, result, run_ns)

    def _admit(self, job: _Job) -> None:
        """Give the job to an idle worker, or let it wait; raises UnavailableError when too many do."""
        loaded = job.loaded
        if not self._idle_workers:
            self._check_queue(loaded)
        self._page.count(loaded.slot, exposures=int(job.choice.is_exposure))
        loaded.in_flight += 1
        job.counters.in_flight += 1
        if job.key is not None:
            self._leaders[job.key] = job
        if self._idle_workers:
            self._start(job)
            return
        if not loaded.waiting:
            self._rota.append(loaded)
        loaded.waiting.append(job)

    def _check_queue(self, loaded: LoadedVersion) -> None:
        """Raise UnavailableError when too many requests to the model wait already."""
        model = loaded.plan.model
        waiting = sum(len(other.waiting) + other.followers for other in self.table.of_model(model))
        if waiting >= self._queue_limit:
            raise UnavailableError(
                f"{waiting} requests to model '{model}' wait already; try again later.",
                self._retry_after_s(loaded, waiting),
            )

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
        self._answer(job, result, run_ns)
        self._leave(job)

    def _answer(self, job: _Job, result: _Result, run_ns: int) -> None:
        """Answer a job that has run and those that waited for it, and remember the result."""
        response = self._respond(job, result, run_ns, "bypass" if job.key is None else "miss")
        job.reply.send(response)
        if job.key is None:
            return
        self._leaders.pop(job.key, None)
        # What could not be written once need not be remembered: a plug-in's results may be anything.
        if response.status == 200 and not isinstance(result, EdgeAgentError):
            started_ns = perf_counter_ns()
            sha256 = job.loaded.plan.sha256
            self._cache.put(job.key, sha256, result)
            self._cache.worth(sha256).note_spent(perf_counter_ns() - started_ns)
        for follower in job.followers:
            follower.reply.send(self._respond(follower, result, 0, "hit"))
            self._release(follower)

    def _release(self, follower: _Job) -> None:
        follower.loaded.followers -= 1
        follower.counters.in_flight -= 1

    def _start_next(self) -> None:
        """Start what has waited longest of the version whose turn it is: each gets its share of the workers."""
        while self._rota and self._idle_workers:
            loaded = self._rota.popleft()
            job = loaded.waiting.popleft()
            if loaded.waiting:
                self._rota.append(loaded)
            if job.is_abandoned:
                self._drop(job)
            else:
                self._start(job)

    def _drop(self, job: _Job) -> None:
        """Forget a job that nobody waits for any more."""
        if job.key is not None:
            self._leaders.pop(job.key, None)
        for follower in job.followers:
            self._release(follower)
        self._leave(job)

    def _leave(self, job: _Job) -> None:
        job.loaded.in_flight -= 1
        job.counters.in_flight -= 1
        self._close_if_done(job.loaded)

    def _close_if_done(self, loaded: LoadedVersion) -> None:
        if loaded.is_retired and not loaded.in_flight:
            self._unloader.submit(LoadedVersion.close, loaded)

    def _respond(self, job: _Job, result: _Result, run_ns: int, cache: str) -> Response:
        """Render the answer, and count it on the health page and for the metrics."""
        error = result if isinstance(result, EdgeAgentError) else None
        if not isinstance(result, EdgeAgentError):
            try:
                response = self._render(job, result, cache)
            except RequestError as refusal:
                error = refusal
            # A plug-in's results that are none, or no memory: this client must be answered all the same.
            except Exception as failed:
                error = ModelLoadError(f"The answer cannot be written: {type(failed).__name__}: {failed}.")
        if error is not None:
            response = failure(error)
            job.counters.fail(_kind(error))
        job.counters.observe(perf_counter() - job.started_s)
        job.counters.note_arm(job.choice.arm)
        is_fault = error is not None and not isinstance(error, RequestError)
        self._page.count(job.loaded.slot, requests=1, errors=int(is_fault), run_ns=run_ns)
        return response

    def _render(self, job: _Job, results: Results, cache: str) -> Response:
        choice = job.choice
        plan = choice.loaded.plan
        parameters = {
            "prediction_id": self._ids.issue(choice.policy, choice.arm, choice.bucket),
            "arm": choice.arm,
            "cache": cache,
        }
        body, header_length = oip.render(
            job.request, plan.model, plan.version, choice.loaded.signature, results, parameters
        )
        if header_length is None:
            return Response(200, body)
        return Response(200, body, "application/octet-stream", ((HEADER_LENGTH, str(header_length)),))


def _count_refusal(counters: VersionCounters, error: EdgeAgentError, started_s: float) -> None:
    counters.fail(_kind(error))
    counters.observe(perf_counter() - started_s)


def _kind(error: EdgeAgentError) -> str:
    """Return the label under which an error is counted."""
    if isinstance(error, RequestError):
        return "request"
    return "unavailable" if isinstance(error, UnavailableError) else "engine"
