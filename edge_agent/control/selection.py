"""What is served of what is deployed, and why not all of it."""

from collections.abc import Callable

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.quarantine import reasons
from edge_agent.control.withheld import UNLOADED, Withheld
from edge_agent.documents.plan import LeftOut, Plan, VersionPlan
from edge_agent.policy import reconcile

WAITS = "It is loaded after the others; try again in a moment."
"""Why a version is not served though nothing is wrong with it: see `Attempts.portion`."""


class Selection:
    """The deployed state without what is quarantined, what does not load, and what was unloaded on request."""

    def __init__(self, state: DurableState, journal: Journal) -> None:
        self._state = state
        self._unloadable: dict[str, str] = {}
        self._withheld = Withheld(journal)

    @property
    def left_out(self) -> dict[str, str]:
        """Files that are not served now: digest to reason."""
        return {**self._unloadable, **reasons(self._state.value)}

    @property
    def withheld(self) -> frozenset[str]:
        """The models that somebody has asked not to be served for now."""
        return self._withheld.models

    @property
    def deployed(self) -> Plan:
        """What can be served, whatever was unloaded on request."""
        state = self._state.value
        return reconcile.effective(state.current, state.fallback, self.left_out)

    @property
    def wanted(self) -> Plan:
        """What serving shall serve now."""
        return self.without_withheld(self.deployed)

    @property
    def problems(self) -> list[str]:
        """What is not served of what is deployed, one sentence each."""
        current, left_out = self._state.value.current, self.left_out
        return [
            *(
                f"{version.model} {version.version} is left out: {left_out[version.sha256]}"
                for version in current.versions
                if version.sha256 in left_out
            ),
            *(f"{model} is not served: {UNLOADED}" for model in current.models if model in self.withheld),
        ]

    def without_withheld(self, plan: Plan) -> Plan:
        """Return a plan without what was unloaded on request."""
        return self._withheld.without(plan)

    def missing(self, deployed: Plan, served: Plan) -> tuple[LeftOut, ...]:
        """Return what is deployed and not served, with the reasons."""
        return reconcile.missing(deployed, served, self._reason)

    def leave_out(self, sha256: str, reason: str) -> None:
        """Do without a file that does not load, until it is to be tried again."""
        self._unloadable[sha256] = reason

    def try_again(self) -> None:
        """Take in again what did not load: its file may be sound now."""
        self._unloadable = {}

    async def change(self, model: str, load: bool, actor: str, look: Callable[[], None]) -> None:
        """Leave a model out until it is loaded again or the agent starts; or load it again. See `Withheld`."""
        state = self._state.value
        if load:
            for version in (*state.current.of_model(model), *state.fallback.get(model, ())):
                self._unloadable.pop(version.sha256, None)
        await self._withheld.change(state.current, model, load, actor, look)

    def settle(self) -> None:
        """Answer those who wait for a change, now that what is wanted is served."""
        self._withheld.settle(self.wanted, self._reason_for)

    def _reason_for(self, model: str) -> str:
        versions = self._state.value.current.of_model(model)
        return self._reason(versions[0]) if versions else "It is not deployed any more."

    def _reason(self, version: VersionPlan) -> str:
        return UNLOADED if version.model in self.withheld else self.left_out.get(version.sha256, WAITS)
