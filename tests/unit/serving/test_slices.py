"""Slices and delayed batches on a scheduler of the test's own, with engines that do what the test says."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import numpy as np
import pytest
import uvloop
from numpy.typing import NDArray

from edge_agent.documents.errors import EdgeAgentError, ModelLoadError
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.tensors import TensorSpec
from edge_agent.serving.batches import Batching
from edge_agent.serving.jobs import Job, Result, Times
from edge_agent.serving.loader import LoadedVersion
from edge_agent.serving.scheduler import Scheduler
from edge_agent.serving.slices import SlicedRun
from edge_agent.telemetry.health_page import HealthPage

SPECS = (TensorSpec("x", "FP32", (-1,)),)
Run = Callable[[NDArray[Any]], Any]


class Engine:
    inputs = outputs = SPECS

    def __init__(self, function: Run) -> None:
        self._function = function
        self.is_closed = threading.Event()

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Any = None) -> Any:
        assert not self.is_closed.is_set()
        return self._function(inputs["x"])

    def close(self) -> None:
        self.is_closed.set()


def version(function: Run) -> tuple[LoadedVersion, Engine]:
    plan = VersionPlan("m", "1", "test", "fp32", "0" * 64, "/m", 1, SPECS, SPECS, max_batch=8)
    engine: Any = Engine(function)
    return LoadedVersion(plan, engine, 0, HealthPage.create()), engine


class Keeper:
    """Unloads at once what is released."""

    def want(self, loaded: LoadedVersion, job: Job) -> None:
        raise NotImplementedError

    def release(self, loaded: LoadedVersion) -> None:
        loaded.close()


def noting(runs: list[int]) -> Run:
    """Return a run that notes how many rows it had."""

    def run(x: NDArray[Any]) -> Any:
        runs.append(len(x))
        return {"x": x}

    return run


class Whole(Job, eq=False, kw_only=True):
    done: asyncio.Future[Result | None]
    wanted_for: int = 1_000_000
    """How often it says that it is wanted."""

    @property
    def is_wanted(self) -> bool:
        self.wanted_for -= 1
        return self.wanted_for >= 0

    def finish(self, result: Result, times: Times) -> None:
        self.done.set_result(result)

    def drop(self) -> None:
        self.done.set_result(None)


def whole(loaded: LoadedVersion, rows: int, **options: Any) -> Whole:
    x = np.arange(rows, dtype=np.float32)
    done = asyncio.get_running_loop().create_future()
    return Whole(
        loaded=loaded, inputs={"x": x}, wanted=("x",), size_bytes=x.nbytes, rows=rows, done=done, **options
    )


async def ended(job: Whole) -> Result | None:
    return await asyncio.wait_for(job.done, 10)


def test_slices_of_a_quick_model_run_inline_one_by_one_and_the_loop_turns_between_them() -> None:
    turns: list[int] = []

    async def scenario() -> None:
        loaded, _ = version(lambda x: {"x": x * 2})
        loaded.mean_run_ns, loaded.largest_run_bytes = 1000, 2**20
        job = whole(loaded, 5000)
        SlicedRun(job, 1, Scheduler(8)).start()
        while not job.done.done():
            turns.append(1)
            await asyncio.sleep(0)
        result = await ended(job)
        assert not isinstance(result, EdgeAgentError | None)
        assert np.array_equal(result["x"], job.inputs["x"] * 2)

    on_uvloop(scenario())
    assert len(turns) > 4000


def test_a_version_is_unloaded_after_the_last_slice_and_no_sooner() -> None:
    async def scenario() -> None:
        loaded, engine = version(lambda x: {"x": x})
        scheduler = Scheduler(8)
        scheduler.keeper = Keeper()
        job = whole(loaded, 20)
        SlicedRun(job, 2, scheduler).start()
        scheduler.retire(loaded)
        assert not isinstance(await ended(job), EdgeAgentError | None)
        assert await asyncio.to_thread(engine.is_closed.wait, 10)

    asyncio.run(scenario())


@pytest.mark.parametrize("function", [lambda x: None, lambda x: {"x": 1.0}, lambda x: {"x": [1.0, 2.0]}])
def test_results_that_are_no_rows_are_an_error(function: Run) -> None:
    async def scenario() -> None:
        loaded, _ = version(function)
        job = whole(loaded, 4)
        SlicedRun(job, 2, Scheduler(8)).start()
        assert isinstance(await ended(job), ModelLoadError)
        await asyncio.sleep(0)
        assert (loaded.holds, loaded.in_flight, job.part) == (0, 0, None)

    asyncio.run(scenario())


def test_it_ends_between_slices_once_nobody_wants_it() -> None:
    runs: list[int] = []

    async def scenario() -> None:
        loaded, _ = version(noting(runs))
        job = whole(loaded, 100, wanted_for=3)
        SlicedRun(job, 1, Scheduler(8)).start()
        assert await ended(job) is None
        assert loaded.holds == 0

    asyncio.run(scenario())
    assert len(runs) == 4


def test_a_slice_that_waits_is_withdrawn_with_its_request() -> None:
    async def scenario() -> None:
        released = threading.Event()
        busy, _ = version(lambda x: released.wait(10) and {"x": x})
        loaded, _ = version(lambda x: {"x": x})
        scheduler = Scheduler(8)
        fillers = [whole(busy, 1) for _ in range(scheduler.worker_count)]
        for filler in fillers:
            scheduler.submit(filler)
        job = whole(loaded, 4)
        SlicedRun(job, 2, scheduler).start()
        assert len(loaded.queue) == 1
        scheduler.withdraw(job)
        assert await ended(job) is None
        assert (len(loaded.queue), loaded.in_flight, loaded.holds) == (0, 0, 0)
        released.set()
        for filler in fillers:
            await ended(filler)

    asyncio.run(scenario())


def on_uvloop(scenario: Coroutine[Any, Any, None]) -> None:
    """Run it on the loop that serving runs on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


@pytest.mark.parametrize("run", [asyncio.run, on_uvloop])
@pytest.mark.parametrize("delay_us", [0, 1, 100, 400, 600, 1000, 5000])
def test_delays_of_any_length_end(
    run: Callable[[Any], None], delay_us: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        runs: list[int] = []
        loaded, _ = version(noting(runs))
        # Else it would be known as quick after the first run, and never wait again.
        monkeypatch.setattr(loaded, "note_run", lambda *_: None)
        loaded.batching = Batching(4, delay_us * 1000)
        scheduler = Scheduler(1000)
        for count in (1, 3, 10):
            jobs = [whole(loaded, 1) for _ in range(count)]
            for job in jobs:
                scheduler.submit(job)
            for job in jobs:
                assert not isinstance(await ended(job), EdgeAgentError | None)
        assert sum(runs) == 14
        assert max(runs) <= 4

    run(scenario())


def test_those_that_wait_for_more_share_one_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    alarms: list[float] = []

    async def scenario() -> None:
        runs: list[int] = []
        loaded, _ = version(noting(runs))
        loaded.batching = Batching(1000, 50_000_000)
        loop, scheduler = asyncio.get_running_loop(), Scheduler(1000)
        jobs = [whole(loaded, 1) for _ in range(200)]
        call_at = loop.call_at

        def counting(when_s: float, *arguments: Any) -> asyncio.TimerHandle:
            alarms.append(when_s)
            return call_at(when_s, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_at", counting)
            for job in jobs:
                scheduler.submit(job)
        assert len(alarms) == 1
        for job in jobs:
            assert not isinstance(await ended(job), EdgeAgentError | None)
        assert runs == [200]

    asyncio.run(scenario())
