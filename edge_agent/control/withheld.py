"""Models that somebody has asked not to be served for now; forgotten when the agent starts again.

The deployed state stays as it is: what a device runs comes from signed documents, and this only leaves out.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.control.journal import Journal
from edge_agent.documents.errors import NotFoundError, UnavailableError
from edge_agent.documents.plan import Plan, with_id

UNLOADED = "It was unloaded on request; load it to have it served again."
"""Why a model is not served."""


@dataclass(frozen=True, slots=True)
class _Change:
    model: str
    load: bool
    done: asyncio.Future[None]


class Withheld:
    """The models that are left out, and who waits for a change to be served."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: list[_Change] = []
        self.models: frozenset[str] = frozenset()

    def without(self, plan: Plan) -> Plan:
        """Return the plan as it is to be served."""
        if not self.models.intersection(plan.models):
            return plan
        versions = tuple(version for version in plan.versions if version.model not in self.models)
        policies = tuple(policy for policy in plan.policies if policy.model not in self.models)
        return with_id(dataclasses.replace(plan, versions=versions, policies=policies))

    async def change(self, plan: Plan, model: str, load: bool, actor: str, look: Callable[[], None]) -> None:
        """Serve a model of this plan, or leave it out; return when that is so. `look` has the rest looked at.

        Raises NotFoundError for a model that the plan does not have, UnavailableError when it cannot be served.
        """
        if model not in plan.models:
            known = ", ".join(plan.models) or "none"
            raise NotFoundError(f"No model '{model}' is deployed to this device; the models are: {known}.")
        is_new = load == (model in self.models)
        self.models = self.models - {model} if load else self.models | {model}
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Change(model, load, done))
        look()
        await done
        if is_new:
            message = "Served again." if load else "Not served until it is loaded again, or the agent starts."
            self._journal.record("loaded" if load else "unloaded", message, model=model, actor=actor)

    def settle(self, served: Plan, why: Callable[[str], str]) -> None:
        """Answer all who wait, now that what is wanted is served; `why` says of a model why it is not."""
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if change.done.done():
                continue
            if (change.model in served.models) == change.load:
                change.done.set_result(None)
            elif change.load:
                reason = why(change.model)
                change.done.set_exception(
                    UnavailableError(f"Model '{change.model}' cannot be served: {reason}")
                )
            else:
                change.done.set_exception(
                    UnavailableError(f"Model '{change.model}' is served, as it was loaded again meanwhile.")
                )
