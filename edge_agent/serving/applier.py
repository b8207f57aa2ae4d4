"""Turning a plan into the table that is served: whole, or not at all."""

import logging
from collections.abc import Mapping

from edge_agent.documents.errors import EngineSetupError, ModelError, ModelLoadError, ModelMemoryError
from edge_agent.documents.ipc import Applied, Apply, Refused
from edge_agent.serving.loader import LoadedVersion
from edge_agent.serving.pipeline import Pipeline
from edge_agent.serving.residency import Residency
from edge_agent.serving.router import Table

log = logging.getLogger(__name__)


class Applier:
    """Applies one plan after the other. Where memory does not allow to load a version beside what is served,
    requests to the models that have to go first are held until the plan is served, or refused."""

    def __init__(self, pipeline: Pipeline, residency: Residency, device: str) -> None:
        self._pipeline = pipeline
        self._residency = residency
        self._device = device
        self.has_applied = False

    async def apply(self, apply: Apply) -> Applied | Refused:
        """Load what is new, switch to the plan at once, and let go of the rest; or change nothing."""
        keys = {version.key for version in apply.plan.versions}
        leaving = [loaded for loaded in self._pipeline.table.versions if loaded.plan.key not in keys]
        resident = [loaded for loaded in leaving if loaded.is_resident]
        new: dict[str, LoadedVersion] = {}
        refused = await self._load(apply, leaving, new)
        if refused is not None:
            await self._residency.discard(tuple(new.values()))
            await self._residency.restore(resident)
            self._pipeline.holding.end()
            return refused
        self._switch(apply, new)
        self._pipeline.holding.end()
        await self._residency.trim()
        return Applied(plan_id=apply.plan.id, load_s={key: loaded.load_ns / 1e9 for key, loaded in new.items()})

    async def _load(
        self, apply: Apply, leaving: list[LoadedVersion], new: dict[str, LoadedVersion]
    ) -> Refused | None:
        """Load into `new` what the plan has and is not served; stop at the first that does not load."""
        served = {loaded.plan.key for loaded in self._pipeline.table.versions}
        for version in apply.plan.versions:
            key = version.key
            if key in served:
                continue
            try:
                if key not in apply.slots:
                    raise ModelLoadError(f"The plan gives no slot on the health page to {key}.")
                new[key] = await self._residency.load(
                    version, apply.slots[key], leaving, new.values(), self._pipeline.holding.start, apply.prove
                )
            except ModelError as error:
                log.warning("Refused plan %s: %s: %s", apply.plan.id, key, error)
                by_device = isinstance(error, ModelMemoryError | EngineSetupError)
                return Refused(plan_id=apply.plan.id, key=key, reason=str(error), by_device=by_device)
        return None

    def _switch(self, apply: Apply, new: Mapping[str, LoadedVersion]) -> None:
        plan = apply.plan
        served = {loaded.plan.key: loaded for loaded in self._pipeline.table.versions}
        table = []
        for version in plan.versions:
            loaded = new.get(version.key) or served[version.key]
            loaded.plan, loaded.slot = version, apply.slots[version.key]
            table.append(loaded)
        self._pipeline.switch(Table(plan, table, self._device, apply.left_out))
        self.has_applied = True
        names = ", ".join(f"{version.model} {version.version}" for version in plan.versions)
        log.info("Serving plan %s: %s", plan.id, names or "no models")
