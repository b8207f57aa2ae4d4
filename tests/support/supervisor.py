"""A supervisor without children, on a real state folder: what serving would say is written into its channel."""

import asyncio
import contextlib
import hashlib
import tempfile
from pathlib import Path
from typing import Self

import msgspec

from edge_agent.control.deployer import Deployer
from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.store_watch import StoreWatch
from edge_agent.control.supervise import ServingProcess
from edge_agent.documents import ipc
from edge_agent.documents.messages import Event
from edge_agent.documents.plan import Plan, VersionPlan, with_id
from edge_agent.documents.settings import Settings
from edge_agent.store import state as state_file
from edge_agent.store.blobs import BlobStore
from edge_agent.store.events_db import EventsDb
from edge_agent.store.layout import StateLayout
from edge_agent.store.state import DeployedState, Measured
from edge_agent.telemetry.health_page import HealthPage
from edge_agent.telemetry.oom_kills import OomKills

SEGFAULT, KILLED = -11, -9


class Supervisor:
    """The deployer and its parts; each `say` is followed by one step."""

    def __init__(self, folder: Path | None = None) -> None:
        self.layout = StateLayout(folder or Path(tempfile.mkdtemp()))
        self.layout.create()
        self.blobs = BlobStore(self.layout)
        self.start()

    @classmethod
    def serving_one(cls, folder: Path) -> Self:
        """Return one that serves version 1 of model a."""
        supervisor = cls(folder)
        supervisor.apply()
        supervisor.deploy(1, supervisor.version("a", "1"))
        supervisor.apply()
        return supervisor

    def start(self) -> None:
        """Begin, with what is on disk."""
        value, problem = state_file.load(self.layout.state)
        assert problem is None
        self.state = DurableState(self.layout.state, value)
        self.journal = Journal(lambda: EventsDb.open(self.layout.events, keep_unsent=False))
        self.page = HealthPage.create()
        notify = lambda notice: self.deployer.notice(notice)  # noqa: E731 - the two know each other
        self.oom_kills = 0
        """How often the kernel has killed something as memory ran out."""
        self.serving = ServingProcess(
            Settings(),
            {},
            self.page,
            notify,
            outcomes_db=Path(),
            secret="",
            oom_kills=OomKills(lambda: self.oom_kills),
        )
        watch = StoreWatch(Settings(), self.journal)
        self.deployer = Deployer(Settings(), self.state, self.journal, self.blobs, watch, self.serving)
        self.say(ipc.Ready(pid=1))

    def close(self) -> None:
        """End as a power cut does: nothing is written any more."""
        self.journal.close()
        self.page.close()

    @property
    def value(self) -> DeployedState:
        return self.state.value

    @property
    def applying(self) -> Plan | None:
        """The plan that serving was sent and has not answered."""
        return self.serving._pending

    def say(self, *messages: ipc.FromServing) -> None:
        asyncio.run(self.saying(*messages))
        self.deployer.step()

    async def saying(self, *messages: ipc.FromServing) -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(b"".join(msgspec.json.encode(message) + b"\n" for message in messages))
        reader.feed_eof()
        await self.serving._listen(reader)

    def apply(self) -> None:
        """Have serving apply what it was sent."""
        assert self.applying is not None
        self.say(ipc.Applied(plan_id=self.applying.id, load_s={}))

    def end(self, status: int, *inside: VersionPlan, loading: VersionPlan | None = None) -> None:
        """Have serving end while it was inside these versions, or loaded one, and another one begin."""
        slots = self.serving.slots
        marks = [self.page.in_native(slots[version.key]) for version in inside]
        with contextlib.ExitStack() as stack:
            for mark in marks if loading is None else (*marks, self.page.loading(slots[loading.key])):
                stack.enter_context(mark)
            self.serving._ended(status)
        self.say(ipc.Ready(pid=1))

    def deploy(self, serial: int, *versions: VersionPlan, bake_s: float = 60.0) -> Plan:
        """Have a deployment here whose versions have passed their probe."""
        plan = with_id(Plan("", "stable", "default", serial, versions, bake_s=bake_s))
        passed = {version.key: Measured() for version in versions}
        self.state.change(passed={**self.value.passed, **passed})
        self.deployer._target.adopt(plan)
        self.deployer.step()
        return plan

    def fetch(self, serial: int, *versions: VersionPlan) -> Plan:
        """Have a deployment here whose versions have not been probed."""
        plan = with_id(Plan("", "stable", "default", serial, versions))
        self.state.change(target=plan)
        return plan

    def probe(self, version: VersionPlan) -> None:
        """Try a version of the target."""
        asyncio.run(self.deployer._trials.run(version))

    def version(self, model: str, name: str) -> VersionPlan:
        """Return a version whose file is here."""
        content = f"{model} {name}".encode()
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.blobs.path(sha256)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return VersionPlan(model, name, "onnx", "fp32", sha256, str(path), 1, (), ())

    def count(self, version: VersionPlan, requests: int, errors: int = 0, run_ns: int = 1_000_000) -> None:
        """Have serving answer requests."""
        for number in range(requests):
            slot = self.serving.slots[version.key]
            self.page.count(slot, requests=1, errors=int(number < errors), run_ns=run_ns)

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.journal.newest(100) if event.type == kind]
