"""Activation: a plan is given to serving, and becomes the current one once serving has applied it whole."""

import asyncio
from dataclasses import dataclass

from edge_agent.control.attempts import Attempts
from edge_agent.control.baking import Baking
from edge_agent.control.deferral import Deferral
from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.model_files import ModelFiles
from edge_agent.control.quarantine import Quarantine
from edge_agent.control.selection import Selection
from edge_agent.control.store_watch import StoreWatch, SyncOutcome
from edge_agent.control.supervise import ServingEnded, ServingProcess
from edge_agent.control.target import Target
from edge_agent.documents import ipc
from edge_agent.documents.errors import RequestError, UnavailableError
from edge_agent.documents.plan import Plan, VersionPlan
from edge_agent.policy import reconcile


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A plan that is to become the current one; `held` names what an operator rolled back from."""

    plan: Plan
    served: Plan
    """The plan without what is withheld."""
    held: str | None = None
    done: asyncio.Future[None] | None = None


class Activation:
    """Gives serving its plans, and keeps what came of it in the deployed state; one at a time."""

    def __init__(
        self,
        state: DurableState,
        journal: Journal,
        files: ModelFiles,
        target: Target,
        quarantine: Quarantine,
        deferral: Deferral,
        selection: Selection,
        watch: StoreWatch,
        serving: ServingProcess,
        baking: Baking,
        attempts: Attempts,
    ) -> None:
        self._state = state
        self._journal = journal
        self._files = files
        self._target = target
        self._quarantine = quarantine
        self._deferral = deferral
        self._selection = selection
        self._watch = watch
        self._serving = serving
        self._baking = baking
        self._attempts = attempts
        self._under_way: _UnderWay | None = None

    @property
    def plan(self) -> Plan:
        """The plan that may become the current one at any moment; empty while nothing is under way."""
        return self._under_way.plan if self._under_way is not None else Plan()

    def serve(self, served: Plan) -> None:
        """Give serving the plan that it should have and has not."""
        self._attempts.begin(served, self._serving.plan)
        self._serving.apply(served, self._selection.missing(self._state.value.current, served))

    def begin(self, plan: Plan, held: str | None = None, done: asyncio.Future[None] | None = None) -> None:
        """Give serving a plan that becomes the current one when it is applied; `done` hears of that."""
        served = self._selection.without_withheld(plan)
        self._under_way = _UnderWay(plan, served, held, done)
        self._attempts.begin(served, self._serving.plan)
        self._serving.apply(served, self._selection.missing(plan, served), prove=done is None)

    async def rollback(self, actor: str, reason: str = "") -> Plan:
        """Serve the previous plan again, until the store has a newer one; return that plan. `reason` is told.

        Raises RequestError if there is none, UnavailableError while serving is busy or if it cannot load it.
        """
        state, serving = self._state.value, self._serving
        if state.previous is None:
            raise RequestError("There is no previous version to go back to.")
        if not serving.ready or serving.applying:
            raise UnavailableError("The serving process is busy with a change; try again in a moment.")
        left, back = state.current, state.previous
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begin(back, reconcile.identity(left), done)
        await done
        why = f" Reason: {reason}" if reason else ""
        message = f"Back from serial {left.serial} to {back.serial}; serial {left.serial} is held.{why}"
        self._journal.record("rolled_back", message, serial=back.serial, actor=actor)
        return back

    def applied(self, notice: ipc.Applied) -> bool:
        """Serving has applied a plan; say whether that made it the current one."""
        self._baking.tell(notice.plan_id)
        under_way = self._under_way
        if under_way is None or under_way.served.id != notice.plan_id:
            return False
        self._under_way = None
        old, new, state = self._selection.deployed, under_way.plan, self._state.value
        is_rollback = under_way.done is not None
        # What is on trial itself is nothing to go back to, unless what it has replaced is served again.
        returns = is_rollback or (state.previous is not None and state.previous.versions == new.versions)
        replaces = old.versions != new.versions and (state.bake is None or returns)
        fallback = state.fallback
        if replaces and state.bake is not None:
            fallback = reconcile.gone_back(new, fallback, state.bake.versions)
        elif replaces:
            fallback = reconcile.superseded(old, new, fallback)
        bake = self._baking.begin(Plan() if is_rollback else new)
        self._state.change(
            current=new,
            previous=old if old.versions and replaces else state.previous,
            fallback=fallback,
            target=None,
            held=under_way.held,
            held_reason=None,
            bake=bake,
            untold=None,
        )
        self._deferral.end()
        self._tell_activated(old, under_way.served, notice)
        self._watch.settle(SyncOutcome("activated", f"Serial {new.serial} is serving.", new.serial))
        if under_way.done is not None and not under_way.done.done():
            under_way.done.set_result(None)
        return True

    def refused(self, notice: ipc.Refused) -> None:
        """Serving could not load a version of a plan: it still serves what it did."""
        under_way, self._under_way = self._under_way, None
        plan = under_way.plan if under_way is not None else self._selection.wanted
        version = next((v for v in plan.versions if v.key == notice.key), None)
        if under_way is not None and under_way.done is not None:
            _fail(under_way.done, f"The previous version does not load: {notice.reason}")
        elif under_way is not None:
            self._refuse_target(plan, version, notice)
        else:
            for lost in (version,) if version is not None else plan.versions:
                self._leave_out(lost, notice.reason)

    def interrupted(self, end: ServingEnded) -> None:
        """Serving has ended, and what it was to apply with it. If that happens again and again and nobody is
        charged with it, the target has to wait: each time, what serves is gone for a moment."""
        self._attempts.ended(end)
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        if under_way.done is not None:
            _fail(under_way.done, "The serving process ended; try again.")
        elif not end.suspects and (version := self._attempts.weary(under_way.served)) is not None:
            self._deferral.defer(version, "loaded", f"The serving process {end.how} meanwhile, again.")

    def _tell_activated(self, old: Plan, new: Plan, notice: ipc.Applied) -> None:
        before = {version.key for version in old.versions}
        for version in new.versions:
            if version.key not in before:
                load_s = notice.load_s.get(version.key, 0.0)
                message = f"Serving {version.precision} on {version.engine}, loaded in {load_s:.2f} s."
                self._journal.record(
                    "activated", message, model=version.model, version=version.version, serial=new.serial
                )

    def _refuse_target(self, target: Plan, version: VersionPlan | None, notice: ipc.Refused) -> None:
        if version is None:
            self._target.hold(notice.reason)
        elif damaged := self._files.damaged(version):
            self._target.start_over(version, damaged)
        elif notice.by_device:
            self._deferral.defer(version, "loaded", notice.reason)
        else:
            self._journal.record("refused", notice.reason, serial=target.serial, model=version.model)
            self._quarantine.add(version, notice.reason)

    def _leave_out(self, version: VersionPlan, reason: str) -> None:
        """Do without a version that served before but does not load; fetch its file again if it is damaged."""
        self._selection.leave_out(version.sha256, reason)
        self._journal.record("warning", f"Left out: {reason}", model=version.model, version=version.version)
        if self._state.value.current.origin != "file" and not self._files.is_sound(version.sha256):
            self._files.fetch_again(version, [version.sha256])


def _fail(waited_for: asyncio.Future[None], message: str) -> None:
    """Tell who waits, unless nobody does any more."""
    if not waited_for.done():
        waited_for.set_exception(UnavailableError(message))
