"""Whatever happens in whatever order, the files of the last good version stay, on a real store and state."""

import asyncio
import contextlib
import shutil

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.documents import ipc
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.plan import Plan
from support.supervisor import KILLED, SEGFAULT, Supervisor


class Device(RuleBasedStateMachine):
    """One device, from its first start on."""

    @initialize()
    def begin(self) -> None:
        self.it = Supervisor()
        self.serial = 0
        self.good = Plan()
        """The last plan that served and was on trial no more."""

    def teardown(self) -> None:
        if hasattr(self, "it"):
            self.it.close()
            shutil.rmtree(self.it.layout.base)

    @rule(models=st.sets(st.sampled_from("ab"), min_size=1), old=st.integers(0, 2), bake=st.booleans())
    def deploy(self, models: set[str], old: int, bake: bool) -> None:
        """A deployment has been fetched: of new versions, or of ones that were deployed before."""
        self.serial += 1
        name = str(max(1, self.serial - old))
        versions = [self.it.version(model, name) for model in sorted(models)]
        self.it.deploy(self.serial, *versions, bake_s=60.0 if bake else 0.0)

    @precondition(lambda self: self.it.applying is not None)
    @rule()
    def applied(self) -> None:
        self.it.apply()

    @precondition(lambda self: self.it.applying is not None and self.it.applying.versions)
    @rule(which=st.integers(0, 1))
    def refused(self, which: int) -> None:
        plan = self.it.applying
        assert plan is not None
        # What has served here before loads again.
        served = {version.key for version in (*self.good.versions, *self.it.value.current.versions)}
        bad = [version.key for version in plan.versions if version.key not in served]
        if bad:
            self.it.say(ipc.Refused(plan_id=plan.id, key=bad[which % len(bad)], reason="It does not load."))

    @precondition(lambda self: self.it.serving.plan is not None and self.it.serving.plan.versions)
    @rule(which=st.integers(0, 1), from_outside=st.booleans())
    def end(self, which: int, from_outside: bool) -> None:
        plan = self.it.serving.plan
        assert plan is not None
        version = plan.versions[which % len(plan.versions)]
        # The last good versions run on: what becomes of those on trial is the question.
        if from_outside or version.key not in {one.key for one in self.good.versions}:
            self.it.end(KILLED if from_outside else SEGFAULT, version)

    @precondition(lambda self: self.it.deployer.baking.versions and self.it.applying is None)
    @rule()
    def breach(self) -> None:
        self.it.deployer.baking.give_up(self.it.deployer.baking.versions[0], "it was slow")
        self.it.deployer.step()

    @precondition(lambda self: self.it.deployer.baking.versions and self.it.applying is None)
    @rule()
    def bake(self) -> None:
        bake = self.it.deployer.baking._bake
        assert bake is not None
        self.it.deployer.baking._keep(bake)

    @precondition(lambda self: self.it.applying is None)
    @rule()
    def rollback(self) -> None:
        async def go() -> None:
            asking = asyncio.create_task(self.it.deployer.rollback("uid:0"))
            await asyncio.sleep(0)
            if self.it.applying is not None and not asking.done():
                await self.it.saying(ipc.Applied(plan_id=self.it.applying.id, load_s={}))
            with contextlib.suppress(EdgeAgentError):
                await asyncio.wait_for(asking, 5)

        asyncio.run(go())
        self.it.deployer.step()

    @rule()
    def collect(self) -> None:
        self.it.deployer.collect(dry_run=False, actor="uid:0")

    @rule()
    def restart(self) -> None:
        self.it.close()
        self.it.start()

    @invariant()
    def what_may_be_needed_is_here(self) -> None:
        if not hasattr(self, "it"):
            return
        state, serving = self.it.value, self.it.serving.plan
        if state.bake is None and serving is not None and serving.id == state.current.id:
            self.good = state.current
        assert [v.key for v in state.versions if not self.it.blobs.has(v.sha256)] == []
        assert all(self.it.blobs.has(version.sha256) for version in self.good.versions)
        known = {version.key for version in state.versions}
        assert {version.key for version in self.good.versions} <= known, "nobody knows of it any more"


TestLastGood = Device.TestCase
TestLastGood.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
