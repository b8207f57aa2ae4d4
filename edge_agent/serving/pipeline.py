"""The way of an inference request: assign, bind, cache, run, answer; and the accounts that are kept of it.

All of it is done on the event loop's thread, so that none of it needs a lock; only the runs themselves go to
the scheduler's threads.
"""

import math
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final

from edge_agent.documents.errors import EdgeAgentError, ModelLoadError, RequestError, UnavailableError
from edge_agent.documents.plan import Plan
from edge_agent.policy.assignment import unit_of
from edge_agent.serving.cache import Remembered, ResultCache
from edge_agent.serving.calls import Answer, Call, InferRequest, Results
from edge_agent.serving.jobs import Job, Result, Times
from edge_agent.serving.memo import Hit, Question, Written
from edge_agent.serving.parameters import flag
from edge_agent.serving.predictions import PredictionIds
from edge_agent.serving.router import Choice, Route, Table
from edge_agent.serving.scheduler import Scheduler
from edge_agent.telemetry.counters import Counters, VersionCounters
from edge_agent.telemetry.health_page import HealthPage

_NO_STATE: Final[frozenset[str]] = frozenset()
_NO_TIMES: Final = Times()


class Inference(Job, eq=False, kw_only=True):
    """A request on its way. `key` is what its result is remembered by, None where it bypasses the cache;
    `followers` are equal requests that wait for its run."""

    pipeline: "Pipeline"
    choice: Choice
    counters: VersionCounters
    request: InferRequest
    call: Call
    key: bytes | None
    followers: "list[Inference]"

    @property
    def is_wanted(self) -> bool:
        """Whether its client, or that of a follower, still waits."""
        return not self.call.is_abandoned or any(not one.call.is_abandoned for one in self.followers)

    def finish(self, result: Result, times: Times) -> None:
        """Answer."""
        self.pipeline.finish(self, result, times)

    def drop(self) -> None:
        """Forget it."""
        self.pipeline.drop(self)


class Pipeline:
    """Answers inference requests from the current table of versions. `random` returns points of [0, 1)."""

    def __init__(
        self,
        page: HealthPage,
        counters: Counters,
        cache: ResultCache,
        ids: PredictionIds,
        scheduler: Scheduler,
        random: Callable[[], float],
    ) -> None:
        self.table = Table(Plan(), (), "")
        self._page = page
        self._counters = counters
        self._cache = cache
        self._ids = ids
        self._scheduler = scheduler
        self._random = random
        self._leaders: dict[bytes, Inference] = {}

    def switch(self, table: Table) -> None:
        """Serve this table from the next request on; unload what is not in it once its last run has ended."""
        left_out = set(self.table.versions) - set(table.versions)
        self.table = table
        self._cache.keep(
            {loaded.plan.sha256: loaded.plan.model for loaded in table.versions},
            {policy.model: policy.cache_share for policy in table.plan.policies},
        )
        for loaded in left_out:
            self._scheduler.retire(loaded)

    def refuse(self, model: str, version: str | None, error: EdgeAgentError, started_ns: int) -> None:
        """Count a request that cannot even be read: for the version that would most likely have answered it."""
        route = self.table.route(model)
        first = route.versions[0] if version is None else route.named(version)
        _count_refusal(self._counters.of(model, first.plan.version), error, started_ns)

    def recall(self, question: Question, started_ns: int) -> tuple[Choice, Written | None, str]:
        """Answer a known question from the cache: return who answers, the answer, and its prediction id.

        Without an answer the request is to be read, and answered by who was chosen: to choose again would give
        those arms more than their share whose answers are remembered.
        """
        choice = self._choose(question.table.route(question.model), question.version, question.unit)
        plan = choice.loaded.plan
        written = question.answers.get((plan.version, choice.arm))
        worth = self._cache.worth(plan.sha256)
        if written is None or not worth.allow():
            return choice, None, ""
        looked_up_ns = perf_counter_ns()
        remembered = self._cache.get(question.keys[plan.sha256], choice.policy.cache_ttl_s)
        if remembered is not written.remembered:
            return choice, None, ""
        worth.note_lookup(perf_counter_ns() - looked_up_ns)
        if choice.loaded.mean_run_ns < math.inf:
            worth.note_saved(choice.loaded.mean_run_ns)
        counters = self._counters.of(question.model, plan.version)
        counters.cache_hits += 1
        counters.note_arm(choice.arm)
        self._page.count(choice.loaded.slot, requests=1, exposures=int(choice.is_exposure))
        prediction_id = self._ids.issue(choice.policy, choice.arm, choice.bucket)
        counters.observe((perf_counter_ns() - started_ns) / 1e9)
        return choice, written, prediction_id

    def infer(self, model: str, version: str | None, call: Call, choice: Choice | None = None) -> None:
        """Answer a request to a model, or to one version of it, at once or later; as `choice` if that is made.

        Raises NotFoundError, RequestError or UnavailableError for what cannot be begun.
        """
        route = self.table.route(model)
        try:
            unit = unit_of(call.parameters.get("unit"), call.unit)
            choice = choice or self._choose(route, version, unit)
        except EdgeAgentError as error:
            self.refuse(model, version, error, call.started_ns)
            raise
        counters = self._counters.of(model, choice.loaded.plan.version)
        try:
            inference = self._inference(choice, counters, call)
            if (remembered := self._remembered(inference)) is not None:
                call.note_hit(Hit(self.table, model, version, unit, choice, *remembered))
            elif not self._follows(inference):
                self._run(inference)
        except EdgeAgentError as error:
            counters.note_arm(choice.arm)
            _count_refusal(counters, error, call.started_ns)
            raise

    def finish(self, inference: Inference, result: Result, times: Times) -> None:
        """Answer an inference that has run and those that waited for it, and remember the result."""
        inference.counters.in_flight -= 1
        is_answered = self._answer(inference, result, times, "bypass" if inference.key is None else "miss")
        if inference.key is None:
            return
        self._leaders.pop(inference.key, None)
        # What could not be written once need not be remembered: a plug-in's results may be anything.
        if is_answered and not isinstance(result, EdgeAgentError):
            started_ns = perf_counter_ns()
            sha256 = inference.loaded.plan.sha256
            self._cache.put(inference.key, sha256, result)
            self._cache.worth(sha256).note_spent(perf_counter_ns() - started_ns)
        for follower in inference.followers:
            self._release(follower)
            self._answer(follower, result, _NO_TIMES, "hit")

    def drop(self, inference: Inference) -> None:
        """Forget an inference that nobody waits for any more."""
        inference.counters.in_flight -= 1
        if inference.key is not None:
            self._leaders.pop(inference.key, None)
        for follower in inference.followers:
            self._release(follower)

    def _choose(self, route: Route, version: str | None, unit: str | None) -> Choice:
        if version is None:
            return route.assign(unit, self._random)
        return route.direct(version, unit, self._random)

    def _inference(self, choice: Choice, counters: VersionCounters, call: Call) -> Inference:
        request = call.bind(choice.loaded.signature, _NO_STATE)
        size_bytes = 0
        for tensor in request.inputs.values():
            size_bytes += tensor.nbytes
        return Inference(
            loaded=choice.loaded,
            inputs=request.inputs,
            wanted=list(request.outputs),
            size_bytes=size_bytes,
            pipeline=self,
            choice=choice,
            counters=counters,
            request=request,
            call=call,
            key=self._key(choice, request, size_bytes),
            followers=[],
        )

    def _key(self, choice: Choice, request: InferRequest, size_bytes: int) -> bytes | None:
        """Return what the request's result is remembered by, None if it bypasses the cache."""
        plan, signature = choice.loaded.plan, choice.loaded.signature
        worth = self._cache.worth(plan.sha256)
        if not request.is_cacheable or not flag(request.parameters, "cache", True) or not worth.allow():
            return None
        started_ns = perf_counter_ns()
        key = self._cache.key(plan, choice.policy, signature, request, size_bytes)
        if key is not None:
            worth.note_lookup(perf_counter_ns() - started_ns)
        return key

    def _remembered(self, inference: Inference) -> tuple[bytes, Remembered] | None:
        """Answer from the cache, if that can; return the key and what was remembered."""
        if inference.key is None:
            return None
        remembered = self._cache.get(inference.key, inference.choice.policy.cache_ttl_s)
        if remembered is None:
            return None
        self._note_hit(inference)
        self._answer(inference, remembered.results, _NO_TIMES, "hit")
        return inference.key, remembered

    def _follows(self, inference: Inference) -> bool:
        """Have it wait for the run of an equal one, if there is one; raises UnavailableError if too many do."""
        if inference.key is None:
            inference.counters.cache_bypasses += 1
            return False
        leader = self._leaders.get(inference.key)
        if leader is None:
            inference.counters.cache_misses += 1
            return False
        self._scheduler.check_room(inference.loaded)
        self._note_hit(inference)
        leader.followers.append(inference)
        self._scheduler.note_waiting(inference.loaded, 1)
        inference.counters.in_flight += 1
        return True

    def _note_hit(self, inference: Inference) -> None:
        loaded = inference.loaded
        inference.counters.cache_hits += 1
        self._page.count(loaded.slot, exposures=int(inference.choice.is_exposure))
        if loaded.mean_run_ns < math.inf:
            self._cache.worth(loaded.plan.sha256).note_saved(loaded.mean_run_ns)

    def _run(self, inference: Inference) -> None:
        """Hand the inference to the scheduler; raises UnavailableError when too many wait."""
        self._scheduler.check(inference)
        inference.counters.in_flight += 1
        if inference.key is not None:
            self._leaders[inference.key] = inference
        # Before the run, so that a crash loses no exposure.
        self._page.count(inference.loaded.slot, exposures=int(inference.choice.is_exposure))
        self._scheduler.submit(inference)

    def _release(self, follower: Inference) -> None:
        self._scheduler.note_waiting(follower.loaded, -1)
        follower.counters.in_flight -= 1

    def _answer(self, inference: Inference, result: Result, times: Times, cache: str) -> bool:
        """Send the answer, and count it on the health page and for the metrics; say whether it was a result."""
        error = result if isinstance(result, EdgeAgentError) else None
        if not isinstance(result, EdgeAgentError):
            error = self._send(inference, result, cache)
        if error is not None:
            inference.call.fail(error)
            inference.counters.fail(_kind(error))
        inference.counters.observe((perf_counter_ns() - inference.call.started_ns) / 1e9)
        inference.counters.note_arm(inference.choice.arm)
        is_fault = error is not None and not isinstance(error, RequestError)
        self._page.count(inference.loaded.slot, requests=1, errors=int(is_fault), run_ns=times.infer_ns)
        return error is None

    def _send(self, inference: Inference, results: Results, cache: str) -> EdgeAgentError | None:
        """Send the results; return why that is not possible."""
        choice, plan = inference.choice, inference.loaded.plan
        parameters = {
            "prediction_id": self._ids.issue(choice.policy, choice.arm, choice.bucket),
            "arm": choice.arm,
            "cache": cache,
        }
        signature = inference.loaded.signature
        answer = Answer(inference.request, plan.model, plan.version, signature, results, parameters)
        try:
            inference.call.answer(answer)
        except RequestError as refusal:
            return refusal
        # A plug-in's results that are none, or no memory: this client must be answered all the same.
        except Exception as failed:
            return ModelLoadError(f"The answer cannot be written: {type(failed).__name__}: {failed}.")
        return None


def _count_refusal(counters: VersionCounters, error: EdgeAgentError, started_ns: int) -> None:
    counters.fail(_kind(error))
    counters.observe((perf_counter_ns() - started_ns) / 1e9)


def _kind(error: EdgeAgentError) -> str:
    """Return the label under which an error is counted."""
    if isinstance(error, RequestError):
        return "request"
    return "unavailable" if isinstance(error, UnavailableError) else "engine"
