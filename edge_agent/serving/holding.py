"""Requests to models that are swapped in place: held before they are assigned, and begun again afterwards."""

import asyncio
from collections.abc import Callable
from time import perf_counter_ns

import msgspec

from edge_agent.documents.errors import EdgeAgentError, UnavailableError
from edge_agent.serving.calls import Call
from edge_agent.serving.deadlines import deadline_ns, waited_too_long


class Held(msgspec.Struct, eq=False):
    """One request that is held."""

    model: str
    version: str | None
    call: Call
    timer: asyncio.TimerHandle | None = None


class Holding:
    """The held requests, at most `limit` of each model and each for `wait_limit_s`, or its own timeout.

    `begin` has a request answered, and raises what it cannot be begun for; `refuse` counts one that was not.
    """

    def __init__(
        self,
        limit: int,
        wait_limit_s: float,
        begin: Callable[[str, str | None, Call], object],
        refuse: Callable[[str, str | None, EdgeAgentError, int], None],
    ) -> None:
        self._limit = limit
        self._wait_limit_s = wait_limit_s
        self._begin = begin
        self._refuse = refuse
        self.held: dict[str, list[Held]] = {}
        """By model; a model is here for as long as its requests are held."""

    def start(self, model: str) -> None:
        """Hold the requests to a model from now on."""
        self.held.setdefault(model, [])

    def take(self, model: str, version: str | None, call: Call) -> None:
        """Hold a request; raises UnavailableError when too many are, RequestError for a wrong timeout."""
        deadline = deadline_ns(call.parameters, call.started_ns)
        held = self.held[model]
        if len(held) >= self._limit:
            held[:] = [one for one in held if not one.call.is_abandoned]
        if len(held) >= self._limit:
            raise UnavailableError(
                f"{len(held)} requests wait for model '{model}' to be swapped; try again later."
            )
        one = Held(model, version, call)
        limit_s = left_s = self._wait_limit_s
        if deadline is not None and deadline < perf_counter_ns() + limit_s * 1e9:
            limit_s = (deadline - call.started_ns) / 1e9
            left_s = max(0.0, (deadline - perf_counter_ns()) / 1e9)
        one.timer = asyncio.get_running_loop().call_later(left_s, self._expire, one, limit_s)
        held.append(one)

    def end(self) -> None:
        """Begin all that are held, as the swap is over."""
        ended, self.held = self.held, {}
        for held in ended.values():
            for one in held:
                assert one.timer is not None
                one.timer.cancel()
                if not one.call.is_abandoned:
                    self._begin_again(one)

    def _begin_again(self, one: Held) -> None:
        try:
            self._begin(one.model, one.version, one.call)
        except EdgeAgentError as error:
            one.call.fail(error)

    def _expire(self, one: Held, waited_s: float) -> None:
        held = self.held.get(one.model, [])
        if one not in held:
            return
        held.remove(one)
        if not one.call.is_abandoned:
            error = waited_too_long(one.model, waited_s)
            self._refuse(one.model, one.version, error, one.call.started_ns)
            one.call.fail(error)
