"""Requests of sequences on their way, with an engine of the test's own that runs when the test says so."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.plan import Plan, StatePair, VersionPlan
from edge_agent.documents.settings import CacheSettings, EngineSettings, SequenceSettings
from edge_agent.documents.tensors import TensorSpec
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.cache import ResultCache
from edge_agent.serving.http_infer import HttpCall
from edge_agent.serving.http_messages import Request, Response, failure
from edge_agent.serving.jobs import Job
from edge_agent.serving.loader import LoadedVersion
from edge_agent.serving.pipeline import Pipeline
from edge_agent.serving.predictions import PredictionIds
from edge_agent.serving.router import Table
from edge_agent.serving.scheduler import Scheduler
from edge_agent.telemetry.counters import Counters
from edge_agent.telemetry.health_page import HealthPage

INPUTS: tuple[TensorSpec, ...] = (TensorSpec("x", "FP64", (1,)), TensorSpec("before", "FP64", (1,)))
OUTPUTS: tuple[TensorSpec, ...] = (TensorSpec("total", "FP64", (1,)),)
LIMIT_S = 10.0
TOO_MUCH = 99.0
"""Makes the state infinite, which JSON has no form for."""


class Engine:
    """Adds x to the state, once `gate` is open; notes what it was given."""

    inputs = INPUTS
    outputs = OUTPUTS

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.runs: list[float] = []
        self.closed = threading.Event()

    @classmethod
    def runtime(cls, settings: EngineSettings) -> str | None:
        return None

    @classmethod
    def load(cls, path: Path, settings: EngineSettings) -> Self:
        raise NotImplementedError

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        assert self.gate.wait(LIMIT_S)
        x = float(inputs["x"][0])
        self.runs.append(x)
        if x < 0:
            raise RuntimeError("no")
        return {"total": inputs["before"] + x if x != TOO_MUCH else np.array([np.inf])}

    def close(self) -> None:
        self.closed.set()


class Keeper:
    """Unloads what is retired and has run its last job."""

    def want(self, loaded: LoadedVersion, job: Job) -> None:
        raise NotImplementedError

    def release(self, loaded: LoadedVersion) -> None:
        loaded.close()


class Waiter:
    """Waits for one answer."""

    is_abandoned = False

    def __init__(self, uid: int | None = None) -> None:
        self._uid = uid
        self.response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def peer_uid(self) -> int | None:
        return self._uid

    def send(self, response: Response) -> None:
        self.response.set_result(response)

    async def answer(self) -> Any:
        """Return the state after the request, or the error's status."""
        response = await asyncio.wait_for(self.response, LIMIT_S)
        content = msgspec.json.decode(bytes(response.body[0]))
        return content["outputs"][0]["data"][0] if response.status == 200 else response.status


class Served:
    """A pipeline with one version of one model."""

    def __init__(self, queue_limit: int = 8) -> None:
        self.engine = Engine()
        self.plan = VersionPlan(
            "m", "1", "test", "fp32", "0" * 64, "/m", 1, Engine.inputs, Engine.outputs,
            state=(StatePair("before", "total"),),
        )  # fmt: skip
        page = HealthPage.create()
        self.loaded = LoadedVersion(self.plan, self.engine, 0, page)
        counters = Counters()
        cache = ResultCache(CacheSettings(), bytes(64), counters.cache, lambda: 0.0)
        scheduler = Scheduler(queue_limit)
        scheduler.keeper = Keeper()
        self.pipeline = Pipeline(
            Accounts(page, counters),
            cache,
            PredictionIds(bytes(32)),
            scheduler,
            SequenceSettings(),
            lambda: 0.0,
        )
        self.pipeline.switch(Table(Plan(versions=(self.plan,)), (self.loaded,), "device"))

    def ask(self, x: float, uid: int | None = None, **parameters: Any) -> Waiter:
        waiter = Waiter(uid)
        body = {
            "inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [x]}],
            "outputs": [{"name": "total"}],
            "parameters": {"sequence_id": 1, **parameters},
        }
        request = Request("POST", "/v2/models/m/infer", {}, msgspec.json.encode(body), True, False)
        try:
            self.pipeline.infer("m", None, HttpCall(request, waiter))
        except EdgeAgentError as error:
            waiter.send(failure(error))
        return waiter


def run(scenario: Callable[[Served], Awaitable[None]], queue_limit: int = 8) -> None:
    async def main() -> None:
        served = Served(queue_limit)
        await scenario(served)
        # What the scheduler does after an answer.
        await asyncio.sleep(0)
        assert served.loaded.in_flight == 0

    asyncio.run(main())


def test_requests_of_a_sequence_run_in_the_order_in_which_they_come() -> None:
    async def scenario(served: Served) -> None:
        served.engine.gate.clear()
        waiters = [served.ask(0.0, sequence_start=True), *(served.ask(2.0**n) for n in range(6))]
        served.engine.gate.set()
        answers = [await waiter.answer() for waiter in waiters]
        assert answers == [0, 1, 3, 7, 15, 31, 63]
        assert served.engine.runs == [0, *(2.0**n for n in range(6))]

    run(scenario)


def test_an_id_is_another_sequence_for_another_user() -> None:
    async def scenario(served: Served) -> None:
        for uid, x in ((None, 1.0), (1000, 10.0), (1001, 100.0)):
            assert await served.ask(x, uid, sequence_start=True).answer() == x
        assert await served.ask(5.0, 1000, sequence_end=True).answer() == 15
        assert await served.ask(5.0, 1001).answer() == 105
        assert await served.ask(5.0).answer() == 6
        assert await served.ask(5.0, 1002).answer() == 400

    run(scenario)


def test_many_quick_requests_that_wait_run_without_deep_calls() -> None:
    async def scenario(served: Served) -> None:
        for _ in range(20):
            await served.ask(0.0, sequence_start=True).answer()
        assert served.loaded.mean_run_ns < 100_000
        served.loaded.mean_run_ns = 1e9
        served.engine.gate.clear()
        waiters = [served.ask(0.0, sequence_start=True), *(served.ask(1.0) for _ in range(900))]
        served.loaded.mean_run_ns = 1000.0
        served.engine.gate.set()
        assert [await waiter.answer() for waiter in waiters] == list(range(901))

    run(scenario, queue_limit=1000)


def test_a_start_in_the_middle_resets_and_an_end_ends_for_those_behind_it() -> None:
    async def scenario(served: Served) -> None:
        served.engine.gate.clear()
        waiters = [
            served.ask(1.0, sequence_start=True),
            served.ask(1.0),
            served.ask(5.0, sequence_start=True),
            served.ask(1.0, sequence_end=True),
            served.ask(1.0),
            served.ask(9.0, sequence_start=True),
        ]
        served.engine.gate.set()
        assert [await waiter.answer() for waiter in waiters] == [1, 2, 5, 6, 400, 9]

    run(scenario)


def test_failures_of_every_kind_leave_the_state_as_it_was() -> None:
    async def scenario(served: Served) -> None:
        assert await served.ask(1.0, sequence_start=True).answer() == 1
        assert await served.ask(-1.0).answer() == 500
        assert await served.ask(-1.0, sequence_end=True).answer() == 500
        assert await served.ask(1.0).answer() == 2
        assert await served.ask(TOO_MUCH).answer() == 400
        assert await served.ask(0.0).answer() == 2
        assert await served.ask(1.0, priority=7).answer() == 400
        assert await served.ask(1.0, sequence_start=True, timeout=-1).answer() == 400
        assert await served.ask(-1.0, sequence_start=True).answer() == 500
        assert await served.ask(0.0).answer() == 2

    run(scenario)


def test_a_request_whose_client_has_gone_leaves_the_state_and_lets_the_next_one_run() -> None:
    async def scenario(served: Served) -> None:
        assert await served.ask(1.0, sequence_start=True).answer() == 1
        served.loaded.mean_run_ns = 1e9
        served.engine.gate.clear()
        running, waiting, last = served.ask(10.0), served.ask(100.0), served.ask(1000.0)
        running.is_abandoned = waiting.is_abandoned = True
        served.engine.gate.set()
        assert await last.answer() == 1001
        assert 100.0 not in served.engine.runs

    run(scenario)


def test_who_waits_is_bounded_and_hears_of_its_deadline() -> None:
    async def scenario(served: Served) -> None:
        served.engine.gate.clear()
        first = served.ask(1.0, sequence_start=True)
        second, late = served.ask(2.0), served.ask(4.0, timeout=1000)
        assert await served.ask(8.0).answer() == 503
        assert await late.answer() == 504
        third = served.ask(16.0)
        served.engine.gate.set()
        assert [await waiter.answer() for waiter in (first, second, third)] == [1, 3, 19]

    run(scenario, queue_limit=2)


def test_an_answer_that_was_too_late_leaves_the_state() -> None:
    async def scenario(served: Served) -> None:
        assert await served.ask(1.0, sequence_start=True).answer() == 1
        served.loaded.mean_run_ns = 1e9
        served.engine.gate.clear()
        assert await served.ask(10.0, timeout=1000).answer() == 504
        after = served.ask(100.0)
        served.engine.gate.set()
        assert await after.answer() == 101

    run(scenario)


def test_a_version_is_unloaded_when_its_last_sequence_has_ended() -> None:
    async def scenario(served: Served) -> None:
        assert await served.ask(1.0, sequence_start=True).answer() == 1
        assert await served.ask(1.0, sequence_id=2, sequence_start=True).answer() == 1
        served.pipeline.switch(Table(Plan(), (), "device"))
        assert await served.ask(1.0).answer() == 2
        assert await served.ask(1.0, sequence_end=True).answer() == 3
        assert served.loaded.holds == 1
        assert not served.engine.closed.is_set()
        assert await served.ask(1.0, sequence_id=2, sequence_end=True).answer() == 2
        assert await asyncio.to_thread(served.engine.closed.wait, LIMIT_S)
        assert await served.ask(1.0, sequence_start=True).answer() == 404

    run(scenario)


def test_a_sequence_that_starts_while_its_version_is_replaced_keeps_it() -> None:
    async def scenario(served: Served) -> None:
        served.engine.gate.clear()
        first = served.ask(1.0, sequence_start=True)
        served.pipeline.switch(Table(Plan(), (), "device"))
        served.engine.gate.set()
        assert await first.answer() == 1
        assert await served.ask(1.0).answer() == 2
        assert not served.engine.closed.is_set()
        served.pipeline.sequences.end_of(served.loaded)
        assert await asyncio.to_thread(served.engine.closed.wait, LIMIT_S)
        assert await served.ask(1.0).answer() == 404

    run(scenario)


def test_a_sequence_that_is_ended_while_a_request_runs_is_over_after_it() -> None:
    async def scenario(served: Served) -> None:
        assert await served.ask(1.0, sequence_start=True).answer() == 1
        served.loaded.mean_run_ns = 1e9
        served.engine.gate.clear()
        running, waiting = served.ask(1.0), served.ask(1.0)
        served.pipeline.sequences.end_of(served.loaded)
        served.engine.gate.set()
        assert await running.answer() == 2
        assert await waiting.answer() == 410
        assert await served.ask(1.0).answer() == 410
        assert await served.ask(3.0, sequence_start=True).answer() == 3

    run(scenario)
