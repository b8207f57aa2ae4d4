"""Brings what runs towards what the signed documents ask for: acts on `policy.reconcile`'s decisions."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from edge_agent.control import reporter
from edge_agent.control.activation import Activation
from edge_agent.control.attempts import Attempts
from edge_agent.control.baking import STEP_S, Baking
from edge_agent.control.crash_charges import CrashCharges
from edge_agent.control.deferral import Deferral
from edge_agent.control.durable_state import DurableState
from edge_agent.control.housekeeping import Housekeeping, Spare
from edge_agent.control.journal import Journal
from edge_agent.control.model_files import ModelFiles
from edge_agent.control.quarantine import Quarantine, reasons
from edge_agent.control.selection import Selection
from edge_agent.control.store_watch import Progress, StoreWatch, SyncOutcome
from edge_agent.control.supervise import Notice, ServingEnded, ServingProcess
from edge_agent.control.target import Target
from edge_agent.control.trials import Trials
from edge_agent.documents import ipc
from edge_agent.documents.errors import RequestError, UnavailableError
from edge_agent.documents.plan import Plan
from edge_agent.documents.settings import Settings
from edge_agent.policy import reconcile
from edge_agent.store.blobs import BlobStore

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 5.0


class Deployer:
    """The reconcile loop, over the parts that act."""

    def __init__(
        self,
        settings: Settings,
        state: DurableState,
        journal: Journal,
        blobs: BlobStore,
        watch: StoreWatch,
        serving: ServingProcess,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._state = state
        self._journal = journal
        self._files = ModelFiles(blobs, journal, watch.hurry)
        self._watch = watch
        self._serving = serving
        self._wake = asyncio.Event()
        self._child: asyncio.Task[None] | None = None
        self._is_hurried = False
        """Whether an operator will not wait for what is deferred."""
        self.selection = Selection(state, journal)
        self._quarantine = Quarantine(state, journal, watch.tell, clock)
        self._target = Target(state, journal, self._files, watch)
        self._deferral = Deferral(state, journal, watch)
        self._trials = Trials(
            settings,
            state,
            journal,
            self._files,
            self._target,
            self._quarantine,
            self._deferral,
            watch,
            clock=clock,
        )
        self._charges = CrashCharges(settings.supervisor, state, journal, self._quarantine, clock=clock)
        self._attempts = Attempts(state, journal)
        self.baking = Baking(state, journal, serving, self.selection)
        self._activation = Activation(
            state,
            journal,
            self._files,
            self._target,
            self._quarantine,
            self._deferral,
            self.selection,
            watch,
            serving,
            self.baking,
            self._attempts,
        )
        self._housekeeping = Housekeeping(state, journal, blobs, serving, self._activation, clock)

    @property
    def wanted(self) -> Plan:
        """What serving shall serve now."""
        return self._attempts.portion(self.selection.wanted)

    @property
    def probing(self) -> str | None:
        """Key of the version that is being probed."""
        return self._trials.probing

    @property
    def problems(self) -> list[str]:
        """What an operator should know of the deployment, one sentence each."""
        found = [self._deferral.problem] if self._deferral.problem else []
        state = self._state.value
        if (held := reporter.held(state)) is not None:
            command = "rollback" if state.is_previous_held else "sync --force"
            found.append(f"{held} A newer deployment or `edge-agent {command}` ends that.")
        return found + self.selection.problems

    def wake(self) -> None:
        """Look again at what there is to do."""
        self._wake.set()

    async def run(self) -> None:
        """Act until cancelled."""
        try:
            while True:
                self._wake.clear()
                self.step()
                await self._wait()
                self._state.flush()
                self._journal.flush()
        finally:
            self.baking.note()
            self._attempts.close()
            if self._child is not None:
                self._child.cancel()
                await asyncio.gather(self._child, return_exceptions=True)

    def step(self) -> None:
        """Look once at how things are, and act on it."""
        self.baking.step()
        self._attempts.step()
        self._spare()
        self._act()

    def ask_sync(
        self,
        *,
        force: bool,
        folder: str | None,
        progress: Progress,
        at_once: bool = False,
        actor: str = "agent",
    ) -> asyncio.Future[SyncOutcome]:
        """Look at the store now; the result is what came of it, all the way to serving.

        With `force` or `at_once` a target that could not be tried or loaded, and waits, is tried again then;
        with `force` one that was given up before it served, too.

        Raises RequestError where there is no store to look at.
        """
        if self._settings.store.url is None and folder is None:
            raise RequestError("There is no store to look at; set store.url and store.root.")
        self._is_hurried |= force or at_once
        if force:
            self._target.let_go(actor)
        outcome = self._watch.ask(force=force, folder=folder, progress=progress, at_once=at_once)
        self.wake()
        return outcome

    async def rollback(self, actor: str, reason: str = "") -> Plan:
        """Serve the previous plan again, until the store has a newer one; see `Activation.rollback`."""
        return await self._activation.rollback(actor, reason)

    def refuse(self, model: str, version: str, reason: str, actor: str) -> None:
        """Put a version into quarantine: what served before it serves again. Raises NotFoundError."""
        self._quarantine.add_named(model, version, reason, actor)
        self._watch.hurry()
        self.wake()

    def release(self, digests: Collection[str], reason: str, actor: str) -> int:
        """Take files out of quarantine and have what is deployed tried again at once; return how many."""
        released = self._quarantine.release(digests, reason, actor)
        self.selection.try_again()
        self._deferral.end()
        self._watch.hurry()
        self.wake()
        return len(released)

    def quarantined(self, model: str, version: str) -> list[str]:
        """Return the digests of a version in quarantine; raises NotFoundError."""
        return self._quarantine.digests(model, version)

    def collect(self, *, dry_run: bool, actor: str) -> Spare:
        """Remove the files that no plan needs, or only say which.

        Raises UnavailableError while a sync may be bringing files that no plan names yet.
        """
        if self._child is not None and not dry_run:
            raise UnavailableError("A sync or a probe is under way; try again in a moment.")
        return self._housekeeping.collect(dry_run=dry_run, actor=actor)

    async def change_model(self, model: str, load: bool, actor: str) -> None:
        """Leave a model out of what is served, until it is loaded again or the agent starts; or load it again.

        What could not be loaded is tried again. Raises NotFoundError for a model that is not deployed,
        UnavailableError when it cannot be served.
        """
        await self.selection.change(model, load, actor, self._look)

    def notice(self, notice: Notice) -> None:
        """Take what the serving process tells."""
        match notice:
            case ipc.Applied():
                is_new = self._activation.applied(notice)
                self._attempts.applied(self._serving.plan or Plan(), self.baking.versions)
                if is_new:
                    # A sync may be bringing files that no plan names yet; the next activation collects those.
                    self._housekeeping.tidy(files=self._child is None)
            case ipc.Refused():
                self._attempts.refused()
                self._activation.refused(notice)
            case ServingEnded():
                self._activation.interrupted(notice)
                if self._charges.charge(notice, self.wanted):
                    self._watch.hurry()
                self.baking.ended(notice)
            case ipc.Ready():
                log.debug("Serving is ready, process %d.", notice.pid)
        self._look()

    # --- deciding and acting -----------------------------------------------------------------------------

    async def _wait(self) -> None:
        interval_s = STEP_S if self.baking.versions else FLUSH_INTERVAL_S
        timeout_s = min(interval_s, max(0.05, self._watch.due_in_s))
        try:
            await asyncio.wait_for(self._wake.wait(), timeout_s)
        except TimeoutError:
            return

    def _act(self) -> None:
        while (action := reconcile.decide(now := self._situation())) is not None:
            match action:
                case reconcile.Serve(plan):
                    self._activation.serve(plan)
                case reconcile.Activate(plan):
                    self._activation.begin(plan)
                case reconcile.Probe(version):
                    self._start(self._trials.run(version), f"probe {version.key}")
                case reconcile.DropTarget(reason, resync):
                    self._target.drop(reason, resync=resync)
                case reconcile.Sync():
                    self._start(self._sync(), "sync")
        if not now.child_busy:
            self._deferral.tell()
        self._watch.hold(now.target if reconcile.waits_for_window(now) else None, is_settled=not now.child_busy)

    def _spare(self) -> None:
        """Load no more what takes the device down with it."""
        state = self._state.value
        for plan in (self.selection.wanted, state.target or Plan()):
            if (found := self._attempts.guilty(plan)) is not None:
                version, count = found
                self._attempts.forgive({one.key for one in plan.versions})
                if version.key in self.baking.versions:
                    self.baking.give_up(version.key, count.how)
                elif plan is state.target and len(reconcile.fresh(plan, state.current)) > 1:
                    self._target.hold(f"One of its versions is to blame: {count.how}.")
                else:
                    self._quarantine.add(version, f"It is not loaded again: {count.how}.")

    def _look(self) -> None:
        """Answer those who wait for a model to be loaded or unloaded, if that is done; look at the rest."""
        serving = self._serving
        if serving.plan is not None and not serving.applying and serving.plan.id == self.wanted.id:
            self.selection.settle()
        self._wake.set()

    def _situation(self) -> reconcile.Situation:
        state, serving = self._state.value, self._serving
        return reconcile.Situation(
            wanted=self.wanted,
            serving_ready=serving.ready,
            serving_plan=serving.plan.id if serving.plan is not None else None,
            applying=serving.applying,
            child_busy=self._child is not None,
            sync_due=self._watch.due,
            is_deferred=not self._deferral.is_over,
            target=state.target,
            held=state.held,
            held_reason=state.held_reason,
            passed=state.passed,
            quarantine=reasons(state),
            may_activate=self._watch.maintenance.may_activate(state),
        )

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._child = asyncio.create_task(self._guard(work), name=name)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a child's work; one that cannot even be started must not end the agent."""
        try:
            await work
        except OSError as error:
            log.error("A child process could not be started: %s", error)  # noqa: TRY400
            await self._give_up(f"A child process could not be started: {error}")
        except Exception as error:
            log.exception("The work of a child process failed")
            await self._give_up(f"The work of a child process failed ({type(error).__name__}); see the log.")
        finally:
            self._child = None
            self._wake.set()

    async def _give_up(self, message: str) -> None:
        """Answer those who wait; the pause keeps what always fails from eating the processor."""
        self._watch.settle(SyncOutcome("failed", message, exit_code=1))
        await asyncio.sleep(1.0)

    async def _sync(self) -> None:
        state = self._state.value
        known = tuple(plan for plan in (state.current, state.previous, state.target) if plan is not None)
        is_hurried, self._is_hurried = self._is_hurried, False
        plan = await self._watch.look(reasons(state), known)
        if is_hurried:
            self._deferral.end()
        if self._watch.report.state == "ok":
            self.selection.try_again()  # what was damaged is here again
        if plan is not None:
            self._target.adopt(plan)
