"""The change from one plan to the next: sent to serving, and applied or refused as a whole."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.model_files import ModelFiles
from edge_agent.control.quarantine import Quarantine
from edge_agent.control.selection import Selection
from edge_agent.control.store_watch import StoreWatch, SyncOutcome
from edge_agent.control.supervise import ServingProcess
from edge_agent.control.target import Target
from edge_agent.documents import ipc
from edge_agent.documents.errors import RequestError, UnavailableError
from edge_agent.documents.plan import Plan, VersionPlan
from edge_agent.policy import reconcile


@dataclass(frozen=True, slots=True)
class _Change:
    """A plan that is to become the current one; `held` names what an operator rolled back from."""

    plan: Plan
    served: Plan
    """The plan without what is withheld."""
    held: str | None = None
    done: asyncio.Future[None] | None = None


class Activation:
    """Owns the change that is under way, of which there is one at most."""

    def __init__(
        self,
        state: DurableState,
        journal: Journal,
        files: ModelFiles,
        watch: StoreWatch,
        serving: ServingProcess,
        selection: Selection,
        target: Target,
        quarantine: Quarantine,
        collect: Callable[[], None],
    ) -> None:
        self._state = state
        self._journal = journal
        self._files = files
        self._watch = watch
        self._serving = serving
        self._selection = selection
        self._target = target
        self._quarantine = quarantine
        self._collect = collect
        self._change: _Change | None = None

    def begin(self, plan: Plan, held: str | None = None, done: asyncio.Future[None] | None = None) -> None:
        """Send serving a plan that becomes the current one once it is applied."""
        served = self._selection.without_withheld(plan)
        self._change = _Change(plan, served, held, done)
        self.serve(plan, served)

    def serve(self, deployed: Plan, served: Plan) -> None:
        """Send serving what it shall serve of what is deployed."""
        self._serving.apply(served, self._selection.missing(deployed, served))

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
        self.begin(back, reconcile.identity(left), done)
        await done
        message = f"Back from serial {left.serial} to {back.serial}; serial {left.serial} is held."
        self._journal.record("rolled_back", message, serial=back.serial, actor=actor)
        return back

    # --- what serving tells ------------------------------------------------------------------------------

    def applied(self, notice: ipc.Applied) -> None:
        """Make the plan the current one, if that is what serving has applied."""
        change = self._change
        if change is None or change.served.id != notice.plan_id:
            return
        self._change = None
        old, new, state = self._selection.deployed, change.plan, self._state.value
        self._state.change(
            current=new,
            previous=old if old.versions and old.versions != new.versions else state.previous,
            fallback=reconcile.superseded(old, new, state.fallback),
            target=None,
            held=change.held,
        )
        self._tell_activated(old, change.served, notice)
        self._collect()
        self._watch.settle(SyncOutcome("activated", f"Serial {new.serial} is serving.", new.serial))
        if change.done is not None and not change.done.done():
            change.done.set_result(None)

    def _tell_activated(self, old: Plan, new: Plan, notice: ipc.Applied) -> None:
        before = {version.key for version in old.versions}
        for version in new.versions:
            if version.key not in before:
                load_s = notice.load_s.get(version.key, 0.0)
                message = f"Serving {version.precision} on {version.engine}, loaded in {load_s:.2f} s."
                self._journal.record(
                    "activated", message, model=version.model, version=version.version, serial=new.serial
                )

    def refused(self, notice: ipc.Refused) -> None:
        """Do without the version at fault: refuse the target, or leave it out of what served before."""
        change, self._change = self._change, None
        plan = change.plan if change is not None else self._selection.wanted
        version = next((v for v in plan.versions if v.key == notice.key), None)
        if change is not None and change.done is not None:
            _fail(change.done, f"The previous version does not load: {notice.reason}")
        elif change is not None:
            self._refuse_target(plan, version, notice.reason)
        else:
            for lost in (version,) if version is not None else plan.versions:
                self._leave_out(lost, notice.reason)

    def _refuse_target(self, target: Plan, version: VersionPlan | None, reason: str) -> None:
        if version is not None and (damaged := self._files.damaged(version)):
            self._target.start_over(version, damaged)
            return
        self._journal.record("refused", reason, serial=target.serial, model=version.model if version else None)
        if version is not None:
            self._quarantine.add(version, reason)
            return
        self._state.change(target=None, held=reconcile.identity(target))
        self._watch.settle(SyncOutcome("refused", reason, target.serial, exit_code=1))

    def _leave_out(self, version: VersionPlan, reason: str) -> None:
        """Do without a version that served before but does not load; fetch its file again if it is damaged."""
        self._selection.leave_out(version.sha256, reason)
        self._journal.record("warning", f"Left out: {reason}", model=version.model, version=version.version)
        if self._state.value.current.origin != "file" and not self._files.is_sound(version.sha256):
            self._files.fetch_again(version, [version.sha256])

    def ended(self) -> None:
        """Forget the change: the serving process that it was sent to is gone."""
        change, self._change = self._change, None
        if change is not None and change.done is not None:
            _fail(change.done, "The serving process ended; try again.")


def _fail(waited_for: asyncio.Future[None], message: str) -> None:
    """Tell who waits, unless nobody does any more."""
    if not waited_for.done():
        waited_for.set_exception(UnavailableError(message))
