"""The way of a request that belongs to a sequence: it waits for those before it, and runs with the state.

What is kept of sequences is decided in `sequences`. For the event loop's thread.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from time import perf_counter_ns
from typing import TYPE_CHECKING

import msgspec

from edge_agent.documents.errors import EdgeAgentError
from edge_agent.serving.calls import Call, InferRequest
from edge_agent.serving.deadlines import deadline_ns, exceeded
from edge_agent.serving.jobs import Result
from edge_agent.serving.scheduler import Scheduler
from edge_agent.serving.sequences import Key, SequenceStore, Turn, Wish

if TYPE_CHECKING:
    from edge_agent.serving.inference import Inference
    from edge_agent.serving.loader import LoadedVersion
    from edge_agent.serving.router import Choice, Table

log = logging.getLogger(__name__)

Choose = Callable[[str, str | None, Call], "Choice"]
"""Choose who answers a call to a model, or to a version of it; raises EdgeAgentError."""
Begin = Callable[["Choice", Call, Turn], "Inference"]
"""Run a call; raises EdgeAgentError, which has been counted then."""
Refuse = Callable[[str, str | None, EdgeAgentError, int], None]
"""Count a call that cannot be begun."""


class _Waiting(msgspec.Struct, eq=False):
    """A request that waits for its turn; `loaded` is whose waiting requests it is counted among."""

    loaded: "LoadedVersion"
    timer: asyncio.TimerHandle | None


class Streams:
    """Has requests of sequences run, those of one in the order in which they come."""

    def __init__(
        self, store: SequenceStore, scheduler: Scheduler, choose: Choose, begin: Begin, refuse: Refuse
    ) -> None:
        self.store = store
        self._scheduler = scheduler
        self._choose = choose
        self._begin = begin
        self._refuse = refuse
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Turn, _Waiting] = {}
        self._draining: list[LoadedVersion] = []

    def take(self, wish: Wish, model: str, version: str | None, call: Call) -> "Inference | None":
        """Answer a request of a sequence, now or when its turn has come; return it if that is now.

        Raises EdgeAgentError for what cannot be begun.
        """
        try:
            turn = self._enter(wish, model, version, call)
        except EdgeAgentError as error:
            self._refuse(model, version, error, call.started_ns)
            raise
        return None if turn in self._waiting else self._run(turn)

    def note_switch(self, table: "Table", left_out: "Iterable[LoadedVersion]") -> None:
        """Hear that a table is served from now on, in which these versions are not; their sequences go on.

        But for those whose version has a slot of the health page that is another one's from now on.
        """
        self._draining = [each for each in (*self._draining, *left_out) if each.holds or each.in_flight]
        owners = {loaded.slot: loaded.plan.key for loaded in table.versions}
        for loaded in self._draining:
            if owners.get(loaded.slot, loaded.plan.key) != loaded.plan.key:
                self.store.end_of(loaded)

    def bind(self, turn: Turn, choice: "Choice") -> InferRequest:
        """Return the request with its state among the inputs; raises RequestError where it does not fit."""
        loaded = choice.loaded
        request = turn.call.bind(loaded.in_sequence, loaded.state_inputs)
        state = self.store.fill(turn, choice, request)
        return msgspec.structs.replace(request, inputs=request.inputs | state, is_cacheable=False)

    def checked(self, turn: Turn, result: Result) -> Result:
        """Return the result of a turn's run, or why its state cannot be kept."""
        if isinstance(result, EdgeAgentError) or turn.next is None:
            return result
        return self.store.take(turn, result) or result

    def leave(self, turn: Turn, is_answered: bool) -> None:
        """Let go of a request, which was answered with a result or was not; the next one runs soon.

        By way of the loop, so that many quick ones in a row do not keep other clients waiting.
        """
        following = self.store.leave(turn, is_answered)
        if following is not None and following in self._waiting:
            self._loop.call_soon(self._go_on, following)

    def _enter(self, wish: Wish, model: str, version: str | None, call: Call) -> Turn:
        turn = Turn(Key(model, wish.id, call.peer_uid()), version, wish, call)
        due_ns = deadline_ns(call.parameters, call.started_ns)
        if not self.store.is_busy(turn.key):
            self.store.join(turn)
            return turn
        choice = self.store.choice(turn.key) or self._choose(model, version, call)
        loaded = choice.loaded
        self._scheduler.check_room(loaded)
        self.store.join(turn)
        timer = None
        if due_ns is not None:
            left_s = max((due_ns - perf_counter_ns()) / 1e9, 0.0)
            timer = self._loop.call_later(left_s, self._expire, turn, (due_ns - call.started_ns) / 1e9)
        self._waiting[turn] = _Waiting(loaded, timer)
        self._scheduler.note_waiting(loaded, 1)
        return turn

    def _run(self, turn: Turn) -> "Inference":
        model = turn.key.model
        try:
            choice = self.store.begin(turn) or self._choose(model, turn.version, turn.call)
        except EdgeAgentError as error:
            self._refuse(model, turn.version, error, turn.call.started_ns)
            self.leave(turn, False)
            raise
        try:
            return self._begin(choice, turn.call, turn)
        except BaseException:
            self.leave(turn, False)
            raise

    def _go_on(self, turn: Turn) -> None:
        """Run a request that has waited, unless it has been given up since its turn has come."""
        if turn not in self._waiting:
            return
        self._stop_waiting(turn)
        if turn.call.is_abandoned:
            self.leave(turn, False)
            return
        try:
            self._run(turn)
        except EdgeAgentError as error:
            turn.call.fail(error)
        except Exception:
            log.exception("A request of sequence %r failed", turn.key)
            turn.call.fail(EdgeAgentError("The server failed on this request; its log says more."))

    def _expire(self, turn: Turn, timeout_s: float) -> None:
        self._stop_waiting(turn)
        self.leave(turn, False)
        error = exceeded(turn.key.model, timeout_s)
        self._refuse(turn.key.model, turn.version, error, turn.call.started_ns)
        turn.call.fail(error)

    def _stop_waiting(self, turn: Turn) -> None:
        waiting = self._waiting.pop(turn)
        self._scheduler.note_waiting(waiting.loaded, -1)
        if waiting.timer is not None:
            waiting.timer.cancel()
