"""Jobs that wait for a version to be loaded: none waits for too long, and none is kept after its end."""

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import UnavailableError
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import EngineSettings, MemorySettings
from edge_agent.documents.tensors import TensorSpec
from edge_agent.serving.jobs import Job, Result, Times
from edge_agent.serving.loader import LoadedVersion
from edge_agent.serving.residency import Residency
from edge_agent.serving.scheduler import Scheduler
from edge_agent.telemetry.counters import Counters
from edge_agent.telemetry.health_page import HealthPage

SPECS = (TensorSpec("x", "FP32", (-1,)),)
LIMIT_S = 10.0


class Engine:
    """Gives back what it is given."""

    inputs = outputs = SPECS

    @classmethod
    def runtime(cls, settings: EngineSettings) -> str | None:
        return None

    @classmethod
    def load(cls, path: Path, settings: EngineSettings) -> Self:
        raise NotImplementedError

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        return dict(inputs)

    def close(self) -> None:
        return


class Asked(Job, eq=False, kw_only=True, weakref=True):
    """Tells its end."""

    ended: asyncio.Future[Result]
    then: Callable[[], None] | None = None

    @property
    def is_wanted(self) -> bool:
        return True

    def finish(self, result: Result, times: Times) -> None:
        self.ended.set_result(result)
        if self.then is not None:
            self.then()

    def drop(self) -> None:
        raise NotImplementedError


class Unloaded:
    """A version that is not in memory, and is loaded once `gate` is open."""

    def __init__(self, wait_limit_s: float) -> None:
        self.gate = threading.Event()
        page = HealthPage.create()
        self.scheduler = Scheduler(8)
        self.residency = Residency(
            self.scheduler, Counters(), EngineSettings(), MemorySettings(wait_limit_s=wait_limit_s), page
        )
        plan = VersionPlan("m", "1", "test", "fp32", "0" * 64, "/m", 1, SPECS, SPECS)
        self.loaded = LoadedVersion(plan, Engine(), 0, page)
        self.loaded.is_resident = False
        self.loaded.reload = lambda settings: self.gate.wait(LIMIT_S)  # type: ignore[assignment,method-assign]

    def ask(self) -> Asked:
        x = np.zeros(1000, np.float32)
        ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        job = Asked(loaded=self.loaded, inputs={"x": x}, wanted=["x"], size_bytes=x.nbytes, ended=ended)
        self.scheduler.submit(job)
        return job


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(scenario(), LIMIT_S)

    asyncio.run(limited())


def test_a_job_whose_version_was_loaded_is_kept_by_nothing() -> None:
    async def scenario() -> None:
        unloaded, loop = Unloaded(wait_limit_s=1000.0), asyncio.get_running_loop()
        jobs = [unloaded.ask() for _ in range(4)]
        unloaded.gate.set()
        await asyncio.gather(*(job.ended for job in jobs))
        gone = [asyncio.Event() for _ in jobs]
        for job, event in zip(jobs, gone, strict=True):
            weakref.finalize(job, loop.call_soon_threadsafe, event.set)
        del jobs, job
        await asyncio.gather(*(event.wait() for event in gone))

    run(scenario)


def test_each_job_waits_for_as_long_as_it_may() -> None:
    async def scenario() -> None:
        unloaded, loop = Unloaded(wait_limit_s=0.2), asyncio.get_running_loop()
        waited = []

        async def wait(job: Asked) -> None:
            began_s = loop.time()
            result = await job.ended
            assert isinstance(result, UnavailableError)
            waited.append(loop.time() - began_s)

        waits = []
        for _ in range(3):
            waits.append(asyncio.create_task(wait(unloaded.ask())))
            await asyncio.sleep(0.08)
        await asyncio.gather(*waits)
        unloaded.gate.set()
        assert min(waited) >= 0.19
        assert not unloaded.loaded.queue

    run(scenario)


def test_jobs_that_come_after_the_first_was_refused_are_loaded_for() -> None:
    async def scenario() -> None:
        unloaded = Unloaded(wait_limit_s=0.1)
        assert isinstance(await unloaded.ask().ended, UnavailableError)
        job = unloaded.ask()
        unloaded.gate.set()
        assert isinstance(await job.ended, dict)

    run(scenario)


def test_who_is_refused_may_ask_again_at_once() -> None:
    async def scenario() -> None:
        unloaded, loop = Unloaded(wait_limit_s=0.1), asyncio.get_running_loop()
        faults: list[Any] = []
        loop.set_exception_handler(lambda _, context: faults.append(context))
        again: list[Asked] = []
        first = unloaded.ask()
        first.then = lambda: again.append(unloaded.ask())
        assert isinstance(await first.ended, UnavailableError)
        assert isinstance(await again[0].ended, UnavailableError)
        await asyncio.sleep(0.2)
        unloaded.gate.set()
        assert faults == []

    run(scenario)
