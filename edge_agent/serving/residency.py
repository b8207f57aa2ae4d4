"""Which versions are in memory: loads them for a plan or for a request, and unloads others to make room.

What is decided is in `policy.memory`; here it is done. Loading and unloading take one thread, one at a time;
decisions are made on the event loop's.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns
from typing import Final

from edge_agent.documents.errors import EdgeAgentError, ModelLoadError, ModelMemoryError, UnavailableError
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import EngineSettings, MemorySettings
from edge_agent.policy import memory as policy
from edge_agent.serving.deadlines import waited_too_long
from edge_agent.serving.jobs import Job
from edge_agent.serving.loader import LoadedVersion, load
from edge_agent.serving.memory import return_freed_memory, system_free_bytes
from edge_agent.serving.scheduler import Scheduler
from edge_agent.telemetry.counters import Counters
from edge_agent.telemetry.health_page import HealthPage
from edge_agent.telemetry.memory import total_bytes

log = logging.getLogger(__name__)

_LOOK_AGAIN_S: Final = 0.05
"""How often to look whether a version has become idle, while one that is wanted waits for its turn."""
_FAILED_S: Final = 5.0
"""How long the error of a load on demand is the answer, before the next one is tried."""
_MEASURED_LIMIT: Final = 256
_LEAN_S: Final = 5.0
"""Magika's runs leave 13 to 16 MB in the heap, of which 3 MB are not needed for more of them. To give it back
takes 1 ms, and the run that follows 2 ms longer."""


class Residency:
    """Loads and unloads versions; the scheduler's `Keeper`. For the event loop's thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        counters: Counters,
        engines: EngineSettings,
        memory: MemorySettings,
        page: HealthPage,
    ) -> None:
        scheduler.keeper = self
        self._scheduler = scheduler
        self._counters = counters
        self._engines = engines
        self._memory = memory
        self._page = page
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._changing = asyncio.Lock()
        self._here: dict[LoadedVersion, None] = {}
        self._measured: dict[str, int] = {}
        self._wanted: dict[LoadedVersion, None] = {}
        self._failed: dict[LoadedVersion, tuple[float, EdgeAgentError]] = {}
        self._patience: dict[LoadedVersion, asyncio.TimerHandle] = {}
        """One timer for all jobs that wait for a version: one for each would keep its tensors for as long."""
        self._fetching: asyncio.Task[None] | None = None
        counters.memory_budget_bytes = memory.budget_bytes

    # --- for plans --------------------------------------------------------------------------------------------

    async def load(
        self,
        version: VersionPlan,
        slot: int,
        leaving: Collection[LoadedVersion],
        fresh: Collection[LoadedVersion],
        hold: Callable[[str], None],
        prove: bool = False,
    ) -> LoadedVersion:
        """Load a version of a new plan, beside what is served or in place of it; raises ModelError.

        `leaving` are the versions that the plan leaves out, `fresh` those that were loaded for it already.
        `hold` is told the models whose requests have to wait until the plan is served, before one of their
        versions is unloaded. With `prove` it must answer golden samples.
        """
        async with self._changing:
            here = list(self._here)
            need = self._need(version)
            free_bytes = self._free_bytes()
            residents = [_resident(one, one in leaving, one in fresh) for one in here]
            decision = policy.for_plan(need, free_bytes, residents)
            if isinstance(decision, policy.Never):
                raise self._lack(version, need.least_bytes, decision.allowed_bytes)
            log.info(
                "Loading %s %s %s: it needs %d bytes%s, %d are free; unloads %d versions first",
                *(version.model, version.version, "in place" if decision.in_place else "beside"),
                *(need.bytes, "" if need.bytes == need.least_bytes else " (a guess)", free_bytes),
                len(decision.unload),
            )
            victims = [here[index] for index in decision.unload]
            ending = [victim for victim in victims if victim in leaving]
            for victim in ending:
                hold(victim.plan.model)
            # These requests have been assigned to it, and it is not to come back.
            await asyncio.gather(*(self._scheduler.finish(victim) for victim in ending))
            await self._unload(victims)
            loaded = await self._loop.run_in_executor(
                self._thread, load, version, slot, self._engines, self._page, prove
            )
            self._note_load(loaded)
            if 0 < self._memory.budget_bytes < loaded.resident_bytes:
                await self._unload([loaded])
                raise self._lack(version, loaded.resident_bytes, self._memory.budget_bytes)
            return loaded

    async def restore(self, versions: Collection[LoadedVersion]) -> None:
        """Load again what was unloaded for a plan that was refused; what fails is tried again on demand."""
        async with self._changing:
            for loaded in versions:
                if not loaded.is_resident:
                    await self._bring(loaded)

    async def discard(self, versions: Sequence[LoadedVersion]) -> None:
        """Unload versions that are not going to be served."""
        async with self._changing:
            await self._unload([loaded for loaded in versions if loaded in self._here])

    async def stay_lean(self) -> None:
        """Give the system back what runs leave in the heap, every few seconds in which there were any."""
        given_back_ns = 0
        while True:
            await asyncio.sleep(_LEAN_S)
            used_ns = max((loaded.used_ns for loaded in self._here), default=0)
            if used_ns != given_back_ns:
                given_back_ns = used_ns
                await self._loop.run_in_executor(self._thread, return_freed_memory)

    async def trim(self) -> None:
        """Unload idle versions where those of a new plan take more together than the budget."""
        if not self._memory.budget_bytes:
            return
        async with self._changing:
            here = [one for one in self._here if not one.is_retired]
            residents = [_resident(one, False, False) for one in here]
            free_bytes = self._memory.budget_bytes - sum(one.bytes for one in residents)
            await self._unload([here[index] for index in policy.excess(free_bytes, residents)])

    # --- for requests -----------------------------------------------------------------------------------------

    def want(self, loaded: LoadedVersion, job: Job) -> None:
        """Have a version loaded, for which this job waits in its queue."""
        until_s, error = self._failed.get(loaded, (0.0, None))
        if error is not None and self._loop.time() < until_s:
            self._scheduler.refuse_one(job, error)
            return
        job.asked_s = self._loop.time()
        if loaded not in self._patience:
            self._wait_for(loaded, self._memory.wait_limit_s)
        self._wanted[loaded] = None
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch(), name="load on demand")

    def release(self, loaded: LoadedVersion) -> None:
        """Unload a version that is retired and has run its last job."""
        self._wanted.pop(loaded, None)
        self._failed.pop(loaded, None)
        if (timer := self._patience.pop(loaded, None)) is not None:
            timer.cancel()
        self._thread.submit(loaded.close)
        self._forget(loaded)

    def _wait_for(self, loaded: LoadedVersion, wait_s: float) -> None:
        self._patience[loaded] = self._loop.call_later(wait_s, self._give_up, loaded)

    def _give_up(self, loaded: LoadedVersion) -> None:
        """Refuse the jobs that have waited for a version for too long, and look after the others later."""
        del self._patience[loaded]
        if loaded.is_resident:
            return
        limit_s, now_s = self._memory.wait_limit_s, self._loop.time()
        for job in tuple(loaded.queue):
            if job.asked_s + limit_s <= now_s:
                self._scheduler.refuse_one(job, waited_too_long(loaded.plan.model, limit_s))
        # Who was refused may have asked again at once.
        if loaded.queue and loaded not in self._patience:
            oldest_s = min(job.asked_s for job in loaded.queue)
            self._wait_for(loaded, max(oldest_s + limit_s - now_s, _LOOK_AGAIN_S))

    async def _fetch(self) -> None:
        """Load what is wanted, one after the other, until nothing is."""
        try:
            while self._wanted:
                pause_s = min([await self._try(loaded) for loaded in tuple(self._wanted)])
                if pause_s:
                    await asyncio.sleep(min(pause_s, _LOOK_AGAIN_S))
        except Exception:
            log.exception("Loading on demand failed")
            for loaded in tuple(self._wanted):
                del self._wanted[loaded]
                self._refuse(
                    loaded, UnavailableError("The server failed to load the model; its log says more.")
                )
        finally:
            self._fetching = None

    async def _try(self, loaded: LoadedVersion) -> float:
        """Load a version that is wanted, if its turn has come; return the seconds until it may have."""
        async with self._changing:
            if (
                loaded not in self._wanted
                or loaded.is_resident
                or not any(job.is_wanted for job in loaded.queue)
            ):
                self._wanted.pop(loaded, None)
                return 0.0
            here = list(self._here)
            residents = [_resident(one, False, False) for one in here]
            need = self._need(loaded.plan)
            now_s = perf_counter_ns() / 1e9
            decision = policy.for_request(need, self._free_bytes(), residents, now_s)
            if isinstance(decision, policy.Wait):
                return decision.until_s - now_s
            del self._wanted[loaded]
            if isinstance(decision, policy.Never):
                lack = self._lack(loaded.plan, need.least_bytes, decision.allowed_bytes)
                self._refuse(loaded, UnavailableError(str(lack), 30.0))
                return 0.0
            await self._unload([here[index] for index in decision.unload])
            await self._bring(loaded)
            return 0.0

    def _refuse(self, loaded: LoadedVersion, error: EdgeAgentError) -> None:
        log.warning("%s %s cannot be loaded on demand: %s", loaded.plan.model, loaded.plan.version, error)
        self._failed[loaded] = (self._loop.time() + _FAILED_S, error)
        self._scheduler.refuse(loaded, error)

    # --- what is done -----------------------------------------------------------------------------------------

    async def _unload(self, victims: Sequence[LoadedVersion]) -> None:
        """Let what runs on the versions end, and unload them; jobs that wait for one have it loaded again."""
        await asyncio.gather(*(self._scheduler.suspend(loaded) for loaded in victims))
        for loaded in victims:
            await self._loop.run_in_executor(self._thread, loaded.close)
            self._forget(loaded)
            log.info("Unloaded %s %s to make room", loaded.plan.model, loaded.plan.version)
        for loaded in victims:
            for job in tuple(loaded.queue):
                self.want(loaded, job)

    async def _bring(self, loaded: LoadedVersion) -> None:
        """Load a version again, and run what waits for it; or answer that with the error."""
        try:
            await self._loop.run_in_executor(self._thread, loaded.reload, self._engines)
        except ModelLoadError as error:
            await self._loop.run_in_executor(self._thread, loaded.close)
            self._refuse(loaded, error)
            return
        self._failed.pop(loaded, None)
        if loaded.is_retired and loaded.is_idle:
            self._thread.submit(loaded.close)
            return
        self._note_load(loaded)
        log.info("Loaded %s %s again, %d bytes", loaded.plan.model, loaded.plan.version, loaded.resident_bytes)
        self._scheduler.resume(loaded)

    def _note_load(self, loaded: LoadedVersion) -> None:
        plan = loaded.plan
        self._here[loaded] = None
        self._measured.pop(plan.sha256, None)
        self._measured[plan.sha256] = loaded.resident_bytes
        while len(self._measured) > _MEASURED_LIMIT:
            del self._measured[next(iter(self._measured))]
        self._counters.of(plan.model, plan.version).loads += 1
        self._count(plan.model, plan.version)

    def _forget(self, loaded: LoadedVersion) -> None:
        loaded.is_resident = False
        self._here.pop(loaded, None)
        self._count(loaded.plan.model, loaded.plan.version)

    def _count(self, model: str, version: str) -> None:
        """Tell the counters what is in memory of a version, of all its variants."""
        self._counters.of(model, version).resident_bytes = sum(
            one.resident_bytes for one in self._here if (one.plan.model, one.plan.version) == (model, version)
        )

    # --- what is known ----------------------------------------------------------------------------------------

    def _need(self, version: VersionPlan) -> policy.Need:
        return policy.need(self._measured.get(version.sha256), version.memory_bytes, version.size_bytes)

    def _free_bytes(self) -> int:
        """Return what may be taken now, by the system and by the budget."""
        free = system_free_bytes()
        if self._memory.budget_bytes:
            free = min(free, self._memory.budget_bytes - sum(one.resident_bytes for one in self._here))
        return free

    def _lack(self, version: VersionPlan, needed_bytes: int, allowed_bytes: int) -> ModelLoadError:
        """Return the error for a version that is too large: ModelMemoryError if it fits another time."""
        budget, total = self._memory.budget_bytes, total_bytes()
        needs = f"Model '{version.model}' {version.version} needs {needed_bytes} bytes of memory"
        if needed_bytes <= min(budget or total, total):
            return ModelMemoryError(f"{needs}, and the system has {allowed_bytes} left for it.")
        limit = f"memory.budget_bytes is {budget}" if budget else "the system has no more"
        return ModelLoadError(
            f"{needs} and may have {allowed_bytes} ({limit}); allow more, or deploy a smaller model."
        )


def _resident(loaded: LoadedVersion, is_leaving: bool, is_fresh: bool) -> policy.Resident:
    return policy.Resident(
        bytes=loaded.resident_bytes,
        used_s=loaded.used_ns / 1e9,
        loaded_s=loaded.loaded_ns / 1e9,
        load_s=loaded.load_ns / 1e9,
        is_idle=loaded.is_idle,
        is_leaving=is_leaving,
        is_fresh=is_fresh,
    )
