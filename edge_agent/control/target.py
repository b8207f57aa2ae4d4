"""The plan that has been fetched and is to be activated: taken, and let go."""

import logging
from collections.abc import Collection
from typing import Final

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.model_files import ModelFiles
from edge_agent.control.store_watch import StoreWatch, SyncOutcome
from edge_agent.documents.plan import Plan, VersionPlan
from edge_agent.policy import reconcile
from edge_agent.telemetry.health_page import SLOTS

log = logging.getLogger(__name__)

VERSIONS_LIMIT: Final = SLOTS // 2
"""Half of the health page's slots: two plans lie beside each other during a swap."""


class Target:
    """The deployed state's target; those who wait for a sync are answered here where it ends one."""

    def __init__(self, state: DurableState, journal: Journal, files: ModelFiles, watch: StoreWatch) -> None:
        self._state = state
        self._journal = journal
        self._files = files
        self._watch = watch

    def adopt(self, plan: Plan) -> None:
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
            if reconcile.identity(plan) != state.held:
                message = f"Serial {plan.serial} of group '{plan.group}' is here; it is tried before it serves."
                self._journal.record("installed", message, serial=plan.serial, actor="store")

    def drop(self, reason: str, *, resync: bool) -> None:
        """Forget the target; `resync` asks the store for another variant."""
        target = self._state.value.target
        self._state.change(target=None)
        if target is not None:
            log.info("Serial %d is not activated: %s", target.serial, reason)
        if resync:
            self._watch.hurry()
        else:
            self._watch.settle(SyncOutcome("unchanged", f"Not activated: {reason}"))

    def hold(self, reason: str, model: str | None = None) -> None:
        """Let go of the target, and do not activate it again by itself."""
        target = self._state.value.target
        if target is None:
            return
        self._journal.record("refused", reason, serial=target.serial, model=model)
        self._state.change(target=None, held=reconcile.identity(target), held_reason=reason)
        self._watch.settle(SyncOutcome("refused", reason, target.serial, exit_code=1))

    def let_go(self, actor: str) -> None:
        """End the hold of a plan that never served, for an operator who has it tried again. What was gone back
        from stays held: `Activation.rollback` brings that back."""
        state = self._state.value
        if state.held is None or state.is_previous_held:
            return
        serial = int(state.held.split("/")[1])
        self._state.change(held=None, held_reason=None)
        self._journal.record("released", f"Serial {serial} may be tried again.", serial=serial, actor=actor)

    def start_over(self, version: VersionPlan, damaged: Collection[str]) -> None:
        """Let go of a target whose files were damaged on this device: the version is not to blame."""
        self._files.fetch_again(version, damaged)
        self.drop(f"a file of {version.model} {version.version} was damaged here.", resync=True)
