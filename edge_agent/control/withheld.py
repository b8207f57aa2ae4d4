"""Models that somebody has asked not to be served for now; forgotten when the agent starts again.

The deployed state stays as it is: what a device runs comes from signed documents, and this only leaves out.
"""

import asyncio
import dataclasses
from collections.abc import Callable

from edge_agent.control.journal import Journal
from edge_agent.documents import ipc
from edge_agent.documents.errors import EdgeAgentError, NotFoundError, UnavailableError
from edge_agent.documents.plan import Plan, with_id


class Withheld:
    """The models that are left out, and who waits for a change to be served."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._models: frozenset[str] = frozenset()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    def without(self, plan: Plan) -> Plan:
        """Return the plan as it is to be served."""
        if not self._models.intersection(plan.models):
            return plan
        versions = tuple(version for version in plan.versions if version.model not in self._models)
        policies = tuple(policy for policy in plan.policies if policy.model not in self._models)
        return with_id(dataclasses.replace(plan, versions=versions, policies=policies))

    async def change(self, plan: Plan, model: str, load: bool, actor: str, wake: Callable[[], None]) -> None:
        """Serve a model of this plan, or leave it out; return when that is so. `wake` has the rest looked at.

        Raises NotFoundError for a model that the plan does not have, UnavailableError when serving cannot.
        """
        if model not in plan.models:
            known = ", ".join(plan.models) or "none"
            raise NotFoundError(f"No model '{model}' is deployed to this device; the models are: {known}.")
        if load == (model not in self._models):
            return
        self._models = self._models - {model} if load else self._models | {model}
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self.without(plan).id, future))
        wake()
        await future
        message = "Served again." if load else "Not served until it is loaded again, or the agent starts."
        self._journal.record("loaded" if load else "unloaded", message, model=model, actor=actor)

    def notice(self, notice: object) -> None:
        """Take what serving tells."""
        match notice:
            case ipc.Applied(plan_id=plan_id):
                self._settle(plan_id, None)
            case ipc.Refused(plan_id=plan_id, reason=reason):
                self._settle(plan_id, UnavailableError(f"It cannot be served: {reason}"))

    def _settle(self, plan_id: str, error: EdgeAgentError | None) -> None:
        for wanted, future in self._waiting:
            if wanted == plan_id and not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]
