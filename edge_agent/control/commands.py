"""What an operator can ask of the running agent: the verbs of the admin socket."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from edge_agent.control.admin import Progress, Verb
from edge_agent.control.deployer import Deployer
from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.links import Links
from edge_agent.control.reporter import quarantined
from edge_agent.control.store_watch import StoreWatch
from edge_agent.control.supervise import ServingProcess
from edge_agent.documents.messages import Reported

EVENTS_IN_STATUS = 10


class _SyncArguments(msgspec.Struct, frozen=True):
    wait: bool = True
    force: bool = False
    folder: str | None = None
    now: bool = False


class _EventsArguments(msgspec.Struct, frozen=True):
    limit: int = 50


class _ModelArguments(msgspec.Struct, frozen=True):
    model: str


class _RollbackArguments(msgspec.Struct, frozen=True):
    reason: str = ""


class _QuarantineArguments(msgspec.Struct, frozen=True):
    model: str
    version: str
    reason: str = "An operator says so."


class _ReleaseArguments(msgspec.Struct, frozen=True):
    model: str | None = None
    """None releases everything."""
    version: str = ""
    reason: str = "An operator says so."


class _CollectArguments(msgspec.Struct, frozen=True):
    dry_run: bool = False


class Commands:
    """The verbs, over the parts of one agent."""

    def __init__(
        self,
        deployer: Deployer,
        state: DurableState,
        watch: StoreWatch,
        serving: ServingProcess,
        journal: Journal,
        links: Links,
        report: Callable[[], Reported],
        addresses: Mapping[str, str],
    ) -> None:
        self._deployer = deployer
        self._state = state
        self._watch = watch
        self._serving = serving
        self._journal = journal
        self._links = links
        self._report = report
        self._addresses = addresses
        self._started_s = time.monotonic()

    @property
    def verbs(self) -> dict[str, Verb]:
        """The verbs by name."""
        return {
            "status": self.status,
            "models": self.models,
            "events": self.events,
            "sync": self.sync,
            "rollback": self.rollback,
            "quarantine": self.quarantine,
            "quarantine_add": self.quarantine_add,
            "quarantine_release": self.quarantine_release,
            "gc": self.gc,
            "load": self.load,
            "unload": self.unload,
        }

    async def status(self, _arguments: Mapping[str, Any], _actor: str, _progress: Progress) -> Any:
        """What runs, how the processes are, where the sockets are, and the newest events."""
        return {
            "reported": msgspec.to_builtins(self._report()),
            "process": {
                "pid": os.getpid(),
                "uptime_s": time.monotonic() - self._started_s,
                "serving_pid": self._serving.pid,
                "restarts": max(0, self._serving.starts - 1),
            },
            "sockets": {role: self._addresses.get(role) for role in ("infer", "http", "metrics")},
            **self._links.status(),
            "events": msgspec.to_builtins(self._journal.newest(EVENTS_IN_STATUS)),
        }

    async def models(self, _arguments: Mapping[str, Any], _actor: str, _progress: Progress) -> Any:
        """The versions on this device."""
        return {"versions": msgspec.to_builtins(self._report().versions)}

    async def events(self, arguments: Mapping[str, Any], _actor: str, _progress: Progress) -> Any:
        """The newest events, oldest first."""
        limit = msgspec.convert(arguments, _EventsArguments).limit
        return {"events": msgspec.to_builtins(self._journal.newest(max(1, limit)))}

    async def sync(self, arguments: Mapping[str, Any], actor: str, progress: Progress) -> Any:
        """Look at the store now; with `wait`, until what it asks for serves or is refused."""
        asked = msgspec.convert(arguments, _SyncArguments)
        outcome = self._deployer.ask_sync(
            force=asked.force, folder=asked.folder, progress=progress, at_once=asked.now, actor=actor
        )
        if not asked.wait:
            return {"status": "started", "message": "Looking at the store.", "serial": 0}
        return msgspec.to_builtins(await outcome)

    async def rollback(self, arguments: Mapping[str, Any], actor: str, _progress: Progress) -> Any:
        """Serve the previous plan again."""
        plan = await self._deployer.rollback(actor, msgspec.convert(arguments, _RollbackArguments).reason)
        models = ", ".join(f"{version.model} {version.version}" for version in plan.versions)
        message = f"Serial {plan.serial} serves again ({models}), until the store has a newer one."
        return {"message": message, "serial": plan.serial, "plan_id": plan.id}

    async def quarantine(self, _arguments: Mapping[str, Any], _actor: str, _progress: Progress) -> Any:
        """What shall not run here, and why."""
        return {"quarantine": msgspec.to_builtins(quarantined(self._state.value))}

    async def quarantine_add(self, arguments: Mapping[str, Any], actor: str, _progress: Progress) -> Any:
        """Let a version not run here any more; what served before it serves again."""
        asked = msgspec.convert(arguments, _QuarantineArguments)
        self._deployer.refuse(asked.model, asked.version, asked.reason, actor)
        return {"message": f"{asked.model} {asked.version} does not run here until it is released."}

    async def quarantine_release(self, arguments: Mapping[str, Any], actor: str, _progress: Progress) -> Any:
        """Have versions tried again that are in quarantine."""
        asked = msgspec.convert(arguments, _ReleaseArguments)
        if asked.model is None:
            digests = list(self._state.value.quarantine)
        else:
            digests = self._deployer.quarantined(asked.model, asked.version)
        count = self._deployer.release(digests, asked.reason, actor)
        what = "Nothing was in quarantine" if not count else f"{count} files are released"
        return {"message": f"{what}; what is deployed is tried again now.", "released": count}

    async def gc(self, arguments: Mapping[str, Any], actor: str, _progress: Progress) -> Any:
        """Remove the files that nothing needs."""
        asked = msgspec.convert(arguments, _CollectArguments)
        found = self._deployer.collect(dry_run=asked.dry_run, actor=actor)
        return {
            "files": found.files,
            "parts": found.parts,
            "bytes": found.size_bytes,
            "removed": not asked.dry_run,
        }

    async def load(self, arguments: Mapping[str, Any], actor: str, _progress: Progress) -> Any:
        """Serve a model again that was unloaded."""
        model = msgspec.convert(arguments, _ModelArguments).model
        await self._deployer.change_model(model, load=True, actor=actor)
        return {"message": f"Model '{model}' is served.", "model": model}

    async def unload(self, arguments: Mapping[str, Any], actor: str, _progress: Progress) -> Any:
        """Serve a model no more until it is loaded again, or the agent starts."""
        model = msgspec.convert(arguments, _ModelArguments).model
        await self._deployer.change_model(model, load=False, actor=actor)
        message = f"Model '{model}' is not served until it is loaded again, or the agent starts."
        return {"message": message, "model": model}
