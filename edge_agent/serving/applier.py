"""Turning a plan into the table that is served: whole, or not at all."""

import asyncio
import logging
import time
from concurrent.futures import Executor, ThreadPoolExecutor

from edge_agent.documents.errors import ModelError, ModelLoadError
from edge_agent.documents.ipc import Applied, Apply, Refused
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import EngineSettings
from edge_agent.serving.loader import LoadedVersion, load
from edge_agent.serving.pipeline import Pipeline
from edge_agent.serving.router import Table
from edge_agent.telemetry.health_page import HealthPage

log = logging.getLogger(__name__)


class Applier:
    """Applies one plan after the other; versions are loaded in a thread of its own, beside what is served."""

    def __init__(self, pipeline: Pipeline, engines: EngineSettings, page: HealthPage, device: str) -> None:
        self._pipeline = pipeline
        self._engines = engines
        self._page = page
        self._device = device
        self._loader: Executor = ThreadPoolExecutor(1, thread_name_prefix="load")
        self.has_applied = False

    async def apply(self, apply: Apply) -> Applied | Refused:
        """Load what is new, switch to the plan at once, and let go of the rest; or change nothing."""
        plan = apply.plan
        served = {loaded.plan.key: loaded for loaded in self._pipeline.table.versions}
        new: dict[str, LoadedVersion] = {}
        load_s: dict[str, float] = {}
        for version in plan.versions:
            if version.key in served:
                continue
            started_s = time.monotonic()
            try:
                new[version.key] = await self._load(version, apply.slots)
            except ModelError as error:
                for loaded in new.values():
                    loaded.close()
                log.warning("Refused plan %s: %s: %s", plan.id, version.key, error)
                return Refused(plan_id=plan.id, key=version.key, reason=str(error))
            load_s[version.key] = time.monotonic() - started_s
        table = []
        for version in plan.versions:
            loaded = new.get(version.key) or served[version.key]
            loaded.plan, loaded.slot = version, apply.slots[version.key]
            table.append(loaded)
        self._pipeline.switch(Table(plan, table, self._device))
        self.has_applied = True
        names = ", ".join(f"{version.model} {version.version}" for version in plan.versions)
        log.info("Serving plan %s: %s", plan.id, names or "no models")
        return Applied(plan_id=plan.id, load_s=load_s)

    async def _load(self, version: VersionPlan, slots: dict[str, int]) -> LoadedVersion:
        if version.key not in slots:
            raise ModelLoadError(f"The plan gives no slot on the health page to {version.key}.")
        return await asyncio.get_running_loop().run_in_executor(
            self._loader, load, version, slots[version.key], self._engines, self._page
        )
