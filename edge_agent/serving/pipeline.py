"""The way of an inference request: assign, bind, cache, run, answer; and the accounts that are kept of it.

All of it is done on the event loop's thread, so that none of it needs a lock; only the runs themselves go to
the scheduler's threads.
"""

import asyncio
import math
import time
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final

from edge_agent.documents.errors import EdgeAgentError, RequestError
from edge_agent.documents.plan import Plan
from edge_agent.documents.settings import SequenceSettings
from edge_agent.policy.assignment import unit_of
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.batches import batching
from edge_agent.serving.cache import ResultCache
from edge_agent.serving.calls import Answer, Call, InferRequest, Results, unwritable
from edge_agent.serving.deadlines import deadline_ns, exceeded, waited_too_long
from edge_agent.serving.holding import Holding
from edge_agent.serving.inference import Inference, priority_of, rows_of, with_state
from edge_agent.serving.jobs import Result, Times
from edge_agent.serving.memo import Hit, Question, Written
from edge_agent.serving.parameters import flag
from edge_agent.serving.predictions import PredictionIds
from edge_agent.serving.router import Choice, Route, Table
from edge_agent.serving.scheduler import Scheduler
from edge_agent.serving.sequences import SequenceStore, Turn, Wish, wish_of
from edge_agent.serving.slices import SlicedRun
from edge_agent.serving.streams import Streams

_NO_STATE: Final[frozenset[str]] = frozenset()
_SEQUENCE: Final = "sequence_id"


class Pipeline:
    """Answers inference requests from the current table of versions. `random` returns points of [0, 1)."""

    def __init__(
        self,
        accounts: Accounts,
        cache: ResultCache,
        ids: PredictionIds,
        scheduler: Scheduler,
        sequences: SequenceSettings,
        random: Callable[[], float],
        queue_limit: int = 256,
        wait_limit_s: float = 30.0,
    ) -> None:
        self.table = Table(Plan(), (), "")
        self._accounts = accounts
        self._cache = cache
        self._ids = ids
        self._scheduler = scheduler
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._leaders: dict[bytes, Inference] = {}
        self.holding = Holding(queue_limit, wait_limit_s, self.infer, self.refuse)
        self.sequences = SequenceStore(sequences, scheduler.close_if_done, time.monotonic)
        self._streams = Streams(self.sequences, scheduler, self._choose_for, self._begin, self.refuse)

    def switch(self, table: Table) -> None:
        """Serve this table from the next request on; unload what is not in it once its last run has ended.

        And its last sequence, unless its slot on the health page is another version's from now on.
        """
        left_out = set(self.table.versions) - set(table.versions)
        self.table = table
        for loaded in table.versions:
            loaded.batching = batching(table.plan.policy(loaded.plan.model).batching, loaded.batch_limit)
        self._cache.keep(
            {loaded.plan.sha256: loaded.plan.model for loaded in table.versions},
            {policy.model: policy.cache_share for policy in table.plan.policies},
        )
        self._streams.note_switch(table, left_out)
        for loaded in left_out:
            self._scheduler.retire(loaded)

    def refuse(self, model: str, version: str | None, error: EdgeAgentError, started_ns: int) -> None:
        """Count a request that cannot even be read: for the version that would most likely have answered it."""
        route = self.table.route(model)
        first = route.versions[0] if version is None else route.named(version)
        self._accounts.note_unread(model, first.plan.version, error, started_ns)

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
        lookup_ns = perf_counter_ns() - looked_up_ns
        worth.note_lookup(lookup_ns)
        if choice.loaded.mean_run_ns < math.inf:
            worth.note_saved(choice.loaded.mean_run_ns)
        counters = self._accounts.of(choice)
        self._accounts.note_hit(choice, counters, lookup_ns)
        prediction_id = self._ids.issue(choice.policy, choice.arm, choice.bucket)
        self._accounts.note_answer(choice, counters, None, started_ns)
        return choice, written, prediction_id

    def infer(
        self, model: str, version: str | None, call: Call, choice: Choice | None = None
    ) -> Inference | None:
        """Answer a request to a model, or to one version of it, at once or later; as `choice` if that is made.

        Return it, unless it waits for others of its sequence. Raises NotFoundError, RequestError or
        UnavailableError for what cannot be begun.
        """
        if model in self.holding.held:
            self._hold(model, version, call)
            return None
        parameters = call.parameters
        if _SEQUENCE in parameters and (wish := self._wish(model, version, call)) is not None:
            return self._streams.take(wish, model, version, call)
        route = self.table.route(model)
        try:
            unit = unit_of(parameters.get("unit"), call.unit)
            choice = choice or self._choose(route, version, unit)
        except EdgeAgentError as error:
            self.refuse(model, version, error, call.started_ns)
            raise
        inference = self._begin(choice, call)
        if inference.remembered is not None and inference.key is not None:
            call.note_hit(Hit(self.table, model, version, unit, choice, inference.key, inference.remembered))
        return inference

    def _hold(self, model: str, version: str | None, call: Call) -> None:
        try:
            self.holding.take(model, version, call)
        except EdgeAgentError as error:
            self.refuse(model, version, error, call.started_ns)
            raise

    def _wish(self, model: str, version: str | None, call: Call) -> Wish | None:
        try:
            return wish_of(call.parameters)
        except EdgeAgentError as error:
            self.refuse(model, version, error, call.started_ns)
            raise

    def _begin(self, choice: Choice, call: Call, turn: Turn | None = None) -> Inference:
        """Answer a request as `choice`, from the cache, by a run that is under way, or by one of its own."""
        try:
            inference = self._inference(choice, call, turn)
            if not self._is_remembered(inference) and not self._follows(inference):
                self._run(inference)
            if inference.deadline_ns is not None and not inference.is_answered:
                self._watch(inference)
        except EdgeAgentError as error:
            self._accounts.note_refusal(choice, error, call.started_ns)
            raise
        return inference

    def finish(self, inference: Inference, result: Result, times: Times) -> None:
        """Answer an inference that has run and those that waited for it, and remember the result."""
        if inference.turn is not None:
            self._finish_turn(inference, inference.turn, result, times)
            return
        is_sound = self._conclude(inference, result, times, "bypass" if inference.key is None else "miss")
        if inference.key is None:
            return
        self._leaders.pop(inference.key, None)
        # What could not be written once need not be remembered: a plug-in's results may be anything.
        if is_sound and not isinstance(result, EdgeAgentError):
            self._remember(inference.key, inference, result)
        for follower in inference.followers:
            self._scheduler.note_waiting(follower.loaded, -1)
            self._conclude(follower, result, None, "hit")

    def withdraw(self, inference: Inference) -> None:
        """See whether an inference is wanted still, and let it wait no longer if it is not."""
        # Where it waits for the run of another one, it may have been the last who did.
        leader = inference if inference.key is None else self._leaders.get(inference.key, inference)
        if not leader.is_wanted:
            self._scheduler.withdraw(leader)

    def drop(self, inference: Inference) -> None:
        """Forget an inference that nobody waits for any more."""
        if inference.turn is not None:
            self._streams.leave(inference.turn, False)
        if inference.key is not None:
            self._leaders.pop(inference.key, None)
        for each in (inference, *inference.followers):
            each.counters.in_flight -= 1
            if each.timer is not None:
                each.timer.cancel()
        for follower in inference.followers:
            self._scheduler.note_waiting(follower.loaded, -1)

    def _finish_turn(self, inference: Inference, turn: Turn, result: Result, times: Times) -> None:
        """Answer a request of a sequence, which goes on with its state if the client has got the result."""
        is_awaited = inference.is_awaited
        result = self._streams.checked(turn, result)
        is_sound = self._conclude(inference, result, times, "bypass")
        self._streams.leave(turn, is_awaited and is_sound)

    def _choose_for(self, model: str, version: str | None, call: Call) -> Choice:
        route = self.table.route(model)
        return self._choose(route, version, unit_of(call.parameters.get("unit"), call.unit))

    def _choose(self, route: Route, version: str | None, unit: str | None) -> Choice:
        if version is None:
            return route.assign(unit, self._random)
        return route.direct(version, unit, self._random)

    def _inference(self, choice: Choice, call: Call, turn: Turn | None) -> Inference:
        started_ns = perf_counter_ns()
        if turn is None:
            request = call.bind(choice.loaded.signature, _NO_STATE)
        else:
            request = self._streams.bind(turn, choice)
        size_bytes = 0
        for tensor in request.inputs.values():
            size_bytes += tensor.nbytes
        bound_ns = perf_counter_ns()
        key = self._key(choice, request, size_bytes)
        return Inference(
            loaded=choice.loaded,
            inputs=request.inputs,
            wanted=list(request.outputs) if turn is None else with_state(request, choice),
            size_bytes=size_bytes,
            rows=rows_of(request) if choice.loaded.batch_limit and turn is None else 0,
            priority=priority_of(request),
            deadline_ns=deadline_ns(request.parameters, call.started_ns),
            pipeline=self,
            choice=choice,
            counters=self._accounts.of(choice),
            request=request,
            call=call,
            key=key,
            followers=[],
            turn=turn,
            bound_ns=bound_ns - started_ns,
            lookup_ns=perf_counter_ns() - bound_ns,
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

    def _is_remembered(self, inference: Inference) -> bool:
        """Answer from the cache, if that can."""
        if inference.key is None:
            return False
        remembered = self._cache.get(inference.key, inference.choice.policy.cache_ttl_s)
        if remembered is None:
            return False
        inference.remembered = remembered
        self._note_hit(inference)
        self._answer(inference, remembered.results, "hit")
        return True

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
        self._accounts.note_hit(inference.choice, inference.counters, inference.lookup_ns)
        if loaded.mean_run_ns < math.inf:
            self._cache.worth(loaded.plan.sha256).note_saved(loaded.mean_run_ns)

    def _run(self, inference: Inference) -> None:
        """Hand the inference to the scheduler; raises UnavailableError when too many wait."""
        self._scheduler.check(inference)
        inference.counters.in_flight += 1
        if inference.key is not None:
            self._leaders[inference.key] = inference
        self._accounts.note_exposure(inference.choice)
        limit = inference.loaded.batch_limit
        if limit and inference.rows > limit:
            SlicedRun(inference, limit, self._scheduler).start()
        else:
            self._scheduler.submit(inference)

    def _watch(self, inference: Inference) -> None:
        """See to it that the request is answered when its time is over, whatever has become of its run."""
        assert inference.deadline_ns is not None
        left_s = (inference.deadline_ns - perf_counter_ns()) / 1e9
        inference.timer = self._loop.call_later(max(left_s, 0.0), self._expire, inference)

    def _expire(self, inference: Inference) -> None:
        assert inference.deadline_ns is not None
        if inference.call.is_abandoned:
            return
        timeout_s = (inference.deadline_ns - inference.call.started_ns) / 1e9
        is_late = exceeded if inference.loaded.is_resident else waited_too_long
        self._answer(inference, is_late(inference.loaded.plan.model, timeout_s), "")
        self.withdraw(inference)

    def _conclude(self, inference: Inference, result: Result, times: Times | None, cache: str) -> bool:
        """Answer, unless that was done when its time was over; say whether a result may be remembered."""
        inference.counters.in_flight -= 1
        if inference.timer is not None:
            inference.timer.cancel()
        if times is not None and not isinstance(result, EdgeAgentError):
            rows = max(inference.rows, 1)
            self._accounts.note_run(inference.choice, inference.counters, times, rows, inference.bound_ns)
        if not inference.is_answered:
            return self._answer(inference, result, cache, times)
        if times is not None:
            self._accounts.note_late_run(inference.choice, times)
        return inference.is_complete(result)

    def _remember(self, key: bytes, inference: Inference, results: Results) -> None:
        started_ns = perf_counter_ns()
        sha256 = inference.loaded.plan.sha256
        self._cache.put(key, sha256, results)
        took_ns = perf_counter_ns() - started_ns
        self._cache.worth(sha256).note_spent(took_ns)
        inference.counters.statistics.cache_miss.add(inference.lookup_ns + took_ns)

    def _answer(self, inference: Inference, result: Result, cache: str, times: Times | None = None) -> bool:
        """Send the answer, if anybody waits for it, and count it; say whether it was a result."""
        is_awaited, inference.is_answered = inference.is_awaited, True
        error = result if isinstance(result, EdgeAgentError) else None
        if is_awaited and not isinstance(result, EdgeAgentError):
            error = self._send(inference, result, cache)
        if error is not None:
            inference.call.fail(error)
        started_ns = inference.call.started_ns
        self._accounts.note_answer(inference.choice, inference.counters, error, started_ns, times)
        return error is None and (is_awaited or inference.is_complete(result))

    def _send(self, inference: Inference, results: Results, cache: str) -> EdgeAgentError | None:
        """Send the results; return why that is not possible."""
        choice, plan = inference.choice, inference.loaded.plan
        parameters = {
            "prediction_id": self._ids.issue(choice.policy, choice.arm, choice.bucket),
            "arm": choice.arm,
            "cache": cache,
        }
        signature = inference.loaded.signature
        started_ns = perf_counter_ns()
        answer = Answer(inference.request, plan.model, plan.version, signature, results, parameters)
        try:
            inference.call.answer(answer)
        except RequestError as refusal:
            return refusal
        # Whatever it is, this client must be answered.
        except Exception as failed:
            return unwritable(failed)
        if cache != "hit":
            inference.counters.statistics.compute_output.add(perf_counter_ns() - started_ns)
        return None
