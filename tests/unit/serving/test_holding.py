"""Requests that are held while their model is swapped."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter_ns
from typing import Any

import pytest

from edge_agent.documents.errors import EdgeAgentError, NotFoundError, RequestError, UnavailableError
from edge_agent.serving.calls import Answer, Call, InferRequest, Signature
from edge_agent.serving.holding import Holding


class HeldCall:
    """Hears what becomes of it."""

    unit = None
    is_abandoned = False

    def __init__(self, parameters: Mapping[str, Any] | None = None) -> None:
        self.parameters = parameters or {}
        self.started_ns = perf_counter_ns()
        self.failed: asyncio.Future[EdgeAgentError] = asyncio.get_running_loop().create_future()

    def peer_uid(self) -> int | None:
        raise NotImplementedError

    def bind(self, signature: Signature, state_inputs: frozenset[str]) -> InferRequest:
        raise NotImplementedError

    def note_hit(self, hit: Any) -> None:
        raise NotImplementedError

    def answer(self, answer: Answer) -> None:
        raise NotImplementedError

    def fail(self, error: EdgeAgentError) -> None:
        self.failed.set_result(error)


class Desk:
    """What begins the requests, and counts those that are refused."""

    def __init__(self, limit: int = 8, wait_limit_s: float = 60.0) -> None:
        self.begun: list[tuple[str, str | None, Call]] = []
        self.refused: list[str] = []
        self.error: EdgeAgentError | None = None
        self.holding = Holding(limit, wait_limit_s, self._begin, self._refuse)
        self.holding.start("m")

    def _begin(self, model: str, version: str | None, call: Call) -> None:
        if self.error is not None:
            raise self.error
        self.begun.append((model, version, call))

    def _refuse(self, model: str, version: str | None, error: EdgeAgentError, started_ns: int) -> None:
        self.refused.append(str(error))


def on_a_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        await asyncio.wait_for(test(), 10)

    def call() -> None:
        asyncio.run(run())

    return call


@on_a_loop
async def test_all_are_begun_in_order_but_for_those_whose_client_has_gone() -> None:
    desk = Desk()
    calls = [HeldCall() for _ in range(3)]
    for call in calls:
        desk.holding.take("m", "1", call)
    calls[1].is_abandoned = True
    desk.holding.end()
    assert desk.begun == [("m", "1", calls[0]), ("m", "1", calls[2])]
    assert not desk.holding.held


@on_a_loop
async def test_one_that_cannot_be_begun_any_more_hears_why() -> None:
    desk = Desk()
    desk.error = NotFoundError("It is gone.")
    call = HeldCall()
    desk.holding.take("m", None, call)
    desk.holding.end()
    assert await call.failed is desk.error


@on_a_loop
async def test_no_more_are_held_than_may_wait_not_counting_those_that_have_gone() -> None:
    desk = Desk(limit=2)
    gone = HeldCall()
    gone.is_abandoned = True
    for call in (gone, HeldCall(), HeldCall()):
        desk.holding.take("m", None, call)
    with pytest.raises(UnavailableError, match="2 requests wait for model 'm'"):
        desk.holding.take("m", None, HeldCall())


@on_a_loop
async def test_each_waits_for_its_own_time_at_most() -> None:
    desk = Desk(wait_limit_s=0.02)
    calls = HeldCall({"timeout": 1000}), HeldCall(), HeldCall({"timeout": 60_000_000})
    for call in calls:
        desk.holding.take("m", None, call)
    said = [str(await call.failed) for call in calls]
    assert ["0.001 s" in said[0], "0.02 s" in said[1], "0.02 s" in said[2]] == [True, True, True]
    assert desk.refused == said
    desk.holding.end()
    assert desk.begun == []


@on_a_loop
async def test_a_wrong_timeout_is_refused_at_once() -> None:
    with pytest.raises(RequestError, match="timeout"):
        Desk().holding.take("m", None, HeldCall({"timeout": "soon"}))
