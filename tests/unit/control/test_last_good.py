"""Whatever happens in whatever order, the files of the last good version stay, on a real store and state."""

import asyncio
import contextlib
import hashlib
import shutil
import tempfile
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.control.deployer import Deployer
from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.store_watch import StoreWatch
from edge_agent.control.supervise import ServingProcess
from edge_agent.documents import ipc
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.plan import Plan, VersionPlan, with_id
from edge_agent.documents.settings import Settings
from edge_agent.store import state as state_file
from edge_agent.store.blobs import BlobStore
from edge_agent.store.events_db import EventsDb
from edge_agent.store.layout import StateLayout
from edge_agent.store.state import Measured
from edge_agent.telemetry.health_page import HealthPage

SEGFAULT = -11


class Device(RuleBasedStateMachine):
    """A supervisor without children: what serving would say is written into its channel here."""

    @initialize()
    def begin(self) -> None:
        self.layout = StateLayout(Path(tempfile.mkdtemp()))
        self.layout.create()
        self.blobs = BlobStore(self.layout)
        self.serial = 0
        self.good = Plan()
        """The last plan that served and was on trial no more."""
        self.start()

    def start(self) -> None:
        value, problem = state_file.load(self.layout.state)
        assert problem is None
        self.state = DurableState(self.layout.state, value)
        self.journal = Journal(lambda: EventsDb.open(self.layout.events, keep_unsent=False))
        self.page = HealthPage.create()
        self.serving = ServingProcess(
            Settings(),
            {},
            self.page,
            lambda notice: self.deployer.notice(notice),
            outcomes_db=Path(),
            secret="",
        )
        watch = StoreWatch(Settings(), self.journal)
        self.deployer = Deployer(Settings(), self.state, self.journal, self.blobs, watch, self.serving)
        self.say(ipc.Ready(pid=1))

    def teardown(self) -> None:
        if hasattr(self, "layout"):
            self.journal.close()
            self.page.close()
            shutil.rmtree(self.layout.base)

    def say(self, *messages: ipc.FromServing) -> None:
        """Have serving say something, then the supervisor look at things once."""
        asyncio.run(self.saying(*messages))
        self.deployer.step()
        self.look()

    async def saying(self, *messages: ipc.FromServing) -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(b"".join(msgspec.json.encode(message) + b"\n" for message in messages))
        reader.feed_eof()
        await self.serving._listen(reader)

    def look(self) -> None:
        """Take note of a plan that has become the last good one."""
        state, serving = self.state.value, self.serving
        served = serving.plan is not None and not serving.applying and serving.plan.id == state.current.id
        if state.bake is None and served:
            self.good = state.current

    @rule(models=st.sets(st.sampled_from("ab"), min_size=1), old=st.integers(0, 2), bake=st.booleans())
    def deploy(self, models: set[str], old: int, bake: bool) -> None:
        """A deployment has been fetched: of new versions, or of ones that were deployed before."""
        self.serial += 1
        name = str(max(1, self.serial - old))
        versions = tuple(self.version(model, name) for model in sorted(models))
        plan = with_id(Plan("", "stable", "default", self.serial, versions, bake_s=60.0 if bake else 0.0))
        self.state.change(passed={**self.state.value.passed, **{v.key: Measured() for v in versions}})
        self.deployer._target.adopt(plan)
        self.deployer.step()

    def version(self, model: str, name: str) -> VersionPlan:
        content = f"{model} {name}".encode()
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.blobs.path(sha256)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return VersionPlan(model, name, "onnx", "fp32", sha256, str(path), 1, (), ())

    @precondition(lambda self: self.serving.applying)
    @rule()
    def applied(self) -> None:
        assert self.serving._pending is not None
        self.say(ipc.Applied(plan_id=self.serving._pending.id, load_s={}))

    @precondition(lambda self: self.serving.applying and self.serving._pending.versions)
    @rule(which=st.integers(0, 1))
    def refused(self, which: int) -> None:
        plan = self.serving._pending
        assert plan is not None
        # What has served here before loads again.
        served = {version.key for version in (*self.good.versions, *self.state.value.current.versions)}
        bad = [version.key for version in plan.versions if version.key not in served]
        if bad:
            self.say(ipc.Refused(plan_id=plan.id, key=bad[which % len(bad)], reason="It does not load."))

    @precondition(lambda self: self.serving.plan is not None and self.serving.plan.versions)
    @rule(which=st.integers(0, 1), clean=st.booleans())
    def crash(self, which: int, clean: bool) -> None:
        plan = self.serving.plan
        assert plan is not None
        key = plan.versions[which % len(plan.versions)].key
        # The last good versions run on, so that the trial of others is what is looked at.
        if not clean and key in {version.key for version in self.good.versions}:
            return
        self.page.in_native(self.serving.slots[key]).__enter__()
        self.serving._ended(0 if clean else SEGFAULT)
        self.say(ipc.Ready(pid=1))

    @precondition(lambda self: self.deployer.baking.versions and not self.serving.applying)
    @rule()
    def breach(self) -> None:
        self.deployer.baking.give_up(self.deployer.baking.versions[0], "it was slow")
        self.deployer.step()

    @precondition(lambda self: self.deployer.baking.versions and not self.serving.applying)
    @rule()
    def bake(self) -> None:
        bake = self.deployer.baking._bake
        assert bake is not None
        self.deployer.baking._keep(bake)
        self.look()

    @rule()
    def rollback(self) -> None:
        async def go() -> None:
            asking = asyncio.create_task(self.deployer.rollback("uid:0"))
            await asyncio.sleep(0)
            if self.serving.applying and not asking.done():
                assert self.serving._pending is not None
                await self.saying(ipc.Applied(plan_id=self.serving._pending.id, load_s={}))
            with contextlib.suppress(EdgeAgentError):
                await asyncio.wait_for(asking, 5)

        if not self.serving.applying:
            asyncio.run(go())
            self.deployer.step()
            self.look()

    @rule()
    def collect(self) -> None:
        self.deployer.collect(dry_run=False, actor="uid:0")

    @rule()
    def restart(self) -> None:
        self.journal.close()
        self.page.close()
        self.start()

    @invariant()
    def what_may_be_needed_is_here(self) -> None:
        if not hasattr(self, "state"):
            return
        missing = [version.key for version in self.state.value.versions if not self.blobs.has(version.sha256)]
        assert not missing
        assert all(self.blobs.has(version.sha256) for version in self.good.versions)
        kept = {version.key for version in self.state.value.versions}
        assert {version.key for version in self.good.versions} <= kept, "nobody knows of it any more"


TestLastGood = Device.TestCase
TestLastGood.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
