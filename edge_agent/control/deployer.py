"""Brings what runs towards what the signed documents ask for: acts on `policy.reconcile`'s decisions."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.model_files import ModelFiles
from edge_agent.control.quarantine import Quarantine, reasons
from edge_agent.control.selection import Selection
from edge_agent.control.store_watch import Progress, StoreWatch, SyncOutcome
from edge_agent.control.supervise import Notice, ServingEnded, ServingProcess
from edge_agent.control.trials import Trials
from edge_agent.documents import ipc
from edge_agent.documents.errors import RequestError, UnavailableError
from edge_agent.documents.plan import Plan, VersionPlan
from edge_agent.documents.settings import Settings
from edge_agent.policy import crashes, reconcile
from edge_agent.store.blobs import BlobStore
from edge_agent.telemetry.health_page import SLOTS

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 5.0
VERSIONS_LIMIT = SLOTS // 2
"""Half of the health page's slots: two plans lie beside each other during a swap."""


@dataclass(frozen=True, slots=True)
class _Activation:
    """A plan that is to become the current one; `held` names what an operator rolled back from."""

    plan: Plan
    served: Plan
    """The plan without what is withheld."""
    held: str | None = None
    done: asyncio.Future[None] | None = None


class Deployer:
    """Owns the deployed state, the probe, and the plan that serving is given."""

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
        self._clock = clock
        self._wake = asyncio.Event()
        self._child: asyncio.Task[None] | None = None
        self._activation: _Activation | None = None
        self.quarantine = Quarantine(state, journal, clock)
        self.trials = Trials(settings, state, journal, self._files, self.quarantine, watch, clock)
        self.selection = Selection(state, journal)

    @property
    def wanted(self) -> Plan:
        """What serving shall serve now."""
        return self.selection.wanted

    @property
    def problems(self) -> list[str]:
        """What an operator should know of the deployment, one sentence each."""
        found = [self.trials.deferred] if self.trials.deferred else []
        if self._state.value.held is not None:
            found.append("An operator rolled back; a newer deployment or `edge-agent rollback` ends that.")
        return found + self.selection.problems

    def wake(self) -> None:
        """Look again at what there is to do."""
        self._wake.set()

    async def run(self) -> None:
        """Act until cancelled."""
        try:
            while True:
                self._wake.clear()
                self._act()
                await self._wait()
                self._state.flush()
                self._journal.flush()
        finally:
            if self._child is not None:
                self._child.cancel()
                await asyncio.gather(self._child, return_exceptions=True)

    def ask_sync(
        self, *, force: bool, folder: str | None, progress: Progress, hurry: bool = False
    ) -> asyncio.Future[SyncOutcome]:
        """Look at the store now; the result is what came of it, all the way to serving.

        Raises RequestError where there is no store to look at.
        """
        if self._settings.store.url is None and folder is None:
            raise RequestError("There is no store to look at; set store.url and store.root.")
        outcome = self._watch.ask(force=force, folder=folder, progress=progress, hurry=hurry)
        self.wake()
        return outcome

    async def rollback(self, actor: str) -> Plan:
        """Serve the previous plan again, until the store has a newer one; return that plan.

        Raises RequestError if there is none, UnavailableError while serving is busy or if it cannot load it.
        """
        state, serving = self._state.value, self._serving
        if state.previous is None:
            raise RequestError("There is no previous version to go back to.")
        if not serving.ready or serving.applying:
            raise UnavailableError("The serving process is busy with a change; try again in a moment.")
        left, back = state.current, state.previous
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._activate(back, reconcile.identity(left), done)
        await done
        message = f"Back from serial {left.serial} to {back.serial}; serial {left.serial} is held."
        self._journal.record("rolled_back", message, serial=back.serial, actor=actor)
        return back

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
                self._applied(notice)
            case ipc.Refused():
                self._refused(notice)
            case ServingEnded():
                self._ended(notice)
            case ipc.Ready():
                log.debug("Serving is ready, process %d.", notice.pid)
        self._look()

    # --- deciding and acting -----------------------------------------------------------------------------

    async def _wait(self) -> None:
        timeout_s = min(FLUSH_INTERVAL_S, max(0.05, self._watch.due_in_s))
        try:
            await asyncio.wait_for(self._wake.wait(), timeout_s)
        except TimeoutError:
            return

    def _act(self) -> None:
        while (action := reconcile.decide(now := self._situation())) is not None:
            match action:
                case reconcile.Serve(plan):
                    self._serve(self._state.value.current, plan)
                case reconcile.Activate(plan):
                    self._activate(plan)
                case reconcile.Probe(version):
                    self._start(self._probe(version), f"probe {version.key}")
                case reconcile.DropTarget(reason, resync):
                    self._drop_target(reason, resync)
                case reconcile.Sync():
                    self._start(self._sync(), "sync")
        self._watch.hold(now.target if reconcile.waits_for_window(now) else None, is_settled=not now.child_busy)

    def _activate(self, plan: Plan, held: str | None = None, done: asyncio.Future[None] | None = None) -> None:
        served = self.selection.without_withheld(plan)
        self._activation = _Activation(plan, served, held, done)
        self._serve(plan, served)

    def _serve(self, deployed: Plan, served: Plan) -> None:
        self._serving.apply(served, self.selection.missing(deployed, served))

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
            probe_due=self.trials.due,
            target=state.target,
            held=state.held,
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

    def _drop_target(self, reason: str, resync: bool) -> None:
        target = self._state.value.target
        self._state.change(target=None)
        self.trials.hurry()
        if target is not None:
            log.info("Serial %d is not activated: %s", target.serial, reason)
        if resync:
            self._watch.hurry()
        else:
            self._watch.settle(SyncOutcome("unchanged", f"Not activated: {reason}."))

    # --- the children ------------------------------------------------------------------------------------

    async def _sync(self) -> None:
        state = self._state.value
        known = tuple(plan.id for plan in (state.current, state.previous, state.target) if plan is not None)
        plan = await self._watch.look(reasons(state), known)
        if self._watch.report.state == "ok":
            self.selection.try_again()  # what was damaged is here again
        if plan is not None:
            self._adopt(plan)

    def _adopt(self, plan: Plan) -> None:
        """Take a fetched plan as the target, unless it is what runs already."""
        state = self._state.value
        if plan.id == state.current.id:
            self._state.change(target=None)
            self._watch.settle(SyncOutcome("unchanged", f"Serial {plan.serial} runs already.", plan.serial))
        elif len(plan.versions) > VERSIONS_LIMIT:
            message = (
                f"Serial {plan.serial} asks for {len(plan.versions)} versions; {VERSIONS_LIMIT} is the most."
            )
            self._journal.record("refused", message, serial=plan.serial)
            self._watch.settle(SyncOutcome("refused", message, plan.serial, exit_code=1))
        elif state.target is None or plan.id != state.target.id:
            self._state.change(target=plan)
            self.trials.hurry()
            if reconcile.identity(plan) != state.held:
                message = f"Serial {plan.serial} of group '{plan.group}' is here; it is tried before it serves."
                self._journal.record("installed", message, serial=plan.serial)

    async def _probe(self, version: VersionPlan) -> None:
        if damaged := await self.trials.run(version):
            self._start_over(version, damaged)

    def _start_over(self, version: VersionPlan, damaged: Collection[str]) -> None:
        """Let go of a target whose files were damaged on this device: the version is not to blame."""
        self._files.fetch_again(version, damaged)
        self._drop_target(f"a file of {version.model} {version.version} was damaged here", resync=True)

    # --- what serving tells ------------------------------------------------------------------------------

    def _applied(self, notice: ipc.Applied) -> None:
        activation = self._activation
        if activation is None or activation.served.id != notice.plan_id:
            return
        self._activation = None
        old, new, state = self.selection.deployed, activation.plan, self._state.value
        self._state.change(
            current=new,
            previous=old if old.versions and old.versions != new.versions else state.previous,
            fallback=reconcile.superseded(old, new, state.fallback),
            target=None,
            held=activation.held,
        )
        self._tell_activated(old, activation.served, notice)
        self._collect()
        self._watch.settle(SyncOutcome("activated", f"Serial {new.serial} is serving.", new.serial))
        if activation.done is not None and not activation.done.done():
            activation.done.set_result(None)

    def _tell_activated(self, old: Plan, new: Plan, notice: ipc.Applied) -> None:
        before = {version.key for version in old.versions}
        for version in new.versions:
            if version.key not in before:
                load_s = notice.load_s.get(version.key, 0.0)
                message = f"Serving {version.precision} on {version.engine}, loaded in {load_s:.2f} s."
                self._journal.record(
                    "activated", message, model=version.model, version=version.version, serial=new.serial
                )

    def _refused(self, notice: ipc.Refused) -> None:
        activation, self._activation = self._activation, None
        plan = activation.plan if activation is not None else self.wanted
        version = next((v for v in plan.versions if v.key == notice.key), None)
        if activation is not None and activation.done is not None:
            _fail(activation.done, f"The previous version does not load: {notice.reason}")
        elif activation is not None:
            self._refuse_target(plan, version, notice.reason)
        else:
            for lost in (version,) if version is not None else plan.versions:
                self._leave_out(lost, notice.reason)

    def _refuse_target(self, target: Plan, version: VersionPlan | None, reason: str) -> None:
        if version is not None and (damaged := self._files.damaged(version)):
            self._start_over(version, damaged)
            return
        self._journal.record("refused", reason, serial=target.serial, model=version.model if version else None)
        if version is not None:
            self._blame(version, reason)
            return
        self._state.change(target=None, held=reconcile.identity(target))
        self._watch.settle(SyncOutcome("refused", reason, target.serial, exit_code=1))

    def _leave_out(self, version: VersionPlan, reason: str) -> None:
        """Do without a version that served before but does not load; fetch its file again if it is damaged."""
        self.selection.leave_out(version.sha256, reason)
        self._journal.record("warning", f"Left out: {reason}", model=version.model, version=version.version)
        if self._state.value.current.origin != "file" and not self._files.is_sound(version.sha256):
            self._files.fetch_again(version, [version.sha256])

    def _ended(self, end: ServingEnded) -> None:
        activation, self._activation = self._activation, None
        if activation is not None and activation.done is not None:
            _fail(activation.done, "The serving process ended; try again.")
        suspects = ", ".join(end.suspects)
        charged = f", charged to {suspects}" if suspects else ""
        self._journal.record(
            "hung" if end.hung else "crashed", f"The serving process {end.how}{charged}; it is started again."
        )
        if end.suspects:
            self._charge(end)

    def _charge(self, end: ServingEnded) -> None:
        limits, state, now_s = self._settings.supervisor, self._state.value, self._clock()
        recent = crashes.within(state.incidents, now_s, limits.crash_window_s)
        incidents = (*recent, crashes.Incident(now_s, end.suspects))
        settled = {version.key for versions in state.fallback.values() for version in versions}
        key = crashes.blamed(incidents, limits.crash_limit, settled)
        self._state.change(incidents=incidents if key is None else crashes.without(incidents, key))
        known = {
            v.key: v for plan in (state.current, state.target or Plan(), self.wanted) for v in plan.versions
        }
        if key is not None and key in known:
            what = "hung" if end.hung else "crashed"
            self._blame(known[key], f"It {what} the serving process {limits.crash_limit} times.")
            self._watch.hurry()

    def _blame(self, version: VersionPlan, reason: str) -> None:
        self.quarantine.add(version, reason)
        self._watch.tell(f"Refused {version.model} {version.version}: {reason}")

    # --- keeping house -----------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Drop the files and notes that no plan needs any more."""
        state = self._state.value
        versions = [*state.versions, *(self._serving.plan or Plan()).versions]
        keep = {sha256 for v in versions for sha256 in v.files}
        keys = {v.key for v in versions}
        self._state.change(passed={key: found for key, found in state.passed.items() if key in keys})
        if self._child is not None:
            return  # a sync may be bringing files that no plan names yet; the next activation collects
        self._files.drop_all_but(keep)


def _fail(waited_for: asyncio.Future[None], message: str) -> None:
    """Tell who waits, unless nobody does any more."""
    if not waited_for.done():
        waited_for.set_exception(UnavailableError(message))
