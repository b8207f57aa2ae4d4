"""The pipeline with engines of the tests' own: what becomes of answers and runs out of the ordinary."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.documents.plan import BatchingPlan, ModelPlan, Plan, VersionPlan
from edge_agent.documents.settings import CacheSettings, EngineSettings, SequenceSettings
from edge_agent.documents.tensors import TensorSpec
from edge_agent.serving import oip
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.batches import NEVER, Batching
from edge_agent.serving.cache import ResultCache
from edge_agent.serving.http_infer import HttpCall
from edge_agent.serving.http_messages import Request, Response
from edge_agent.serving.loader import LoadedVersion
from edge_agent.serving.pipeline import Pipeline
from edge_agent.serving.predictions import PredictionIds
from edge_agent.serving.router import Table
from edge_agent.serving.scheduler import Scheduler
from edge_agent.telemetry.counters import Counters
from edge_agent.telemetry.health_page import HealthPage

SPECS: tuple[TensorSpec, ...] = (TensorSpec("x", "FP32", (-1,)),)
Run = Callable[[Mapping[str, NDArray[Any]]], dict[str, Any]]


class Engine:
    """Runs a function of the test's."""

    inputs = SPECS
    outputs = SPECS

    def __init__(self, function: Run) -> None:
        self._function = function

    @classmethod
    def runtime(cls, settings: EngineSettings) -> str | None:
        return None

    @classmethod
    def load(cls, path: Path, settings: EngineSettings) -> Self:
        raise NotImplementedError

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        return self._function(inputs)

    def close(self) -> None:
        return


class Waiter:
    """Waits for one answer."""

    is_abandoned = False

    def __init__(self) -> None:
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def peer_uid(self) -> int | None:
        return None

    def reserve(self, size_bytes: int) -> bool:
        return True

    def send(self, response: Response) -> None:
        self.answer.set_result(response)


def served(run: Run, cache_bytes: int = 0) -> tuple[Pipeline, LoadedVersion]:
    plan = VersionPlan("m", "1", "test", "fp32", "0" * 64, "/m", 1, SPECS, SPECS)
    page = HealthPage.create()
    loaded = LoadedVersion(plan, Engine(run), 0, page)
    counters = Counters()
    cache = ResultCache(CacheSettings(max_bytes=cache_bytes), bytes(64), counters.cache, lambda: 0.0)
    pipeline = Pipeline(
        Accounts(page, counters), cache, PredictionIds(bytes(32)), Scheduler(8), SequenceSettings(), lambda: 0.0
    )
    pipeline.switch(Table(Plan(versions=(plan,)), (loaded,), "device"))
    return pipeline, loaded


def request(size: int) -> Request:
    tensor = {"name": "x", "datatype": "FP32", "shape": [size], "data": [0.0] * size}
    body = json.dumps({"inputs": [tensor]}).encode()
    return Request("POST", "/v2/models/m/infer", {}, body, keep_alive=True, is_http10=False)


async def infer(pipeline: Pipeline, size: int) -> Response:
    waiter = Waiter()
    pipeline.infer("m", None, HttpCall(request(size), waiter))
    return await asyncio.wait_for(waiter.answer, 10)


def test_results_that_cannot_be_written_are_answered_and_nothing_stays_in_flight() -> None:
    async def scenario() -> None:
        pipeline, loaded = served(lambda inputs: {})
        response = await infer(pipeline, 1)
        assert response.status == 500
        assert b"The answer cannot be written: KeyError" in bytes(response.body[0])
        await asyncio.sleep(0)
        assert loaded.in_flight == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("outputs", "then"), [({"x": np.ones(1, np.float32)}, 200), ({}, 500), ({"x": None}, 500), (None, 500)]
)
def test_an_answer_that_nobody_waits_for_is_not_written(
    outputs: Any, then: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is remembered all the same, if it is one."""
    gate, rendered = threading.Event(), []

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        assert gate.wait(10)
        return outputs

    def render(*arguments: Any) -> Any:
        rendered.append(arguments)
        return written(*arguments)

    written = oip.render
    monkeypatch.setattr(oip, "render", render)

    async def scenario() -> None:
        pipeline, loaded = served(run, cache_bytes=2**20)
        gone = Waiter()
        begun = pipeline.infer("m", None, HttpCall(request(1), gone))
        assert begun is not None
        gone.is_abandoned = True
        gate.set()
        while loaded.in_flight:  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.001)
        assert rendered == []
        response = await infer(pipeline, 1)
        assert response.status == then
        assert len(rendered) == 1
        assert (b'"cache":"hit"' in bytes(response.body[0])) == (then == 200)

    asyncio.run(scenario())


def test_a_version_whose_batches_failed_is_batched_no_more_by_another_plan() -> None:
    async def scenario() -> None:
        pipeline, loaded = served(lambda inputs: dict(inputs))
        policy = ModelPlan("m", batching=BatchingPlan(8))
        table = Table(Plan(versions=(loaded.plan,), policies=(policy,)), (loaded,), "device")
        loaded.batch_limit = 8
        pipeline.switch(table)
        assert loaded.batching == Batching(8)
        # As the batcher leaves it.
        loaded.batch_limit, loaded.batching = 0, NEVER
        pipeline.switch(table)
        assert loaded.batching == NEVER

    asyncio.run(scenario())


def test_large_inputs_of_a_quick_model_never_run_on_the_loops_thread() -> None:
    """However quick the many small runs are, a slow large one must not stop all other clients."""
    slow_on: list[str] = []

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        if inputs["x"].size > 1:
            slow_on.append(threading.current_thread().name)
            time.sleep(0.02)
        return {"x": np.zeros(1, np.float32)}

    async def scenario() -> None:
        pipeline, _ = served(run)
        for _ in range(3):
            for _ in range(50):
                await infer(pipeline, 1)
            await infer(pipeline, 1000)

    asyncio.run(scenario())
    assert len(slow_on) == 3
    assert threading.main_thread().name not in slow_on
