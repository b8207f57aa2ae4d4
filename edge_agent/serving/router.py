"""Which loaded version answers a request: the table of one plan, replaced as a whole."""

from collections.abc import Sequence

from edge_agent.documents.errors import NotFoundError
from edge_agent.documents.plan import ArmPlan, Plan
from edge_agent.policy.assignment import Lottery
from edge_agent.serving.loader import LoadedVersion


class Table:
    """The versions of one plan, loaded. Never changes; a new plan is a new table."""

    def __init__(self, plan: Plan, versions: Sequence[LoadedVersion]) -> None:
        self.plan = plan
        self.versions = tuple(versions)
        self._models: dict[str, tuple[LoadedVersion, ...]] = {
            model: tuple(loaded for loaded in versions if loaded.plan.model == model) for model in plan.models
        }
        self._lotteries = {
            model: Lottery(model, [ArmPlan(v.version, v.version, v.weight) for v in plan.of_model(model)])
            for model in plan.models
        }

    def of_model(self, model: str) -> tuple[LoadedVersion, ...]:
        """Return a model's versions in the plan's order; raises NotFoundError for an unknown model."""
        versions = self._models.get(model)
        if versions is None:
            known = ", ".join(self._models) or "none"
            raise NotFoundError(f"There is no model '{model}' here; the models are: {known}.")
        return versions

    def named(self, model: str, version: str) -> LoadedVersion:
        """Return one version; raises NotFoundError for an unknown model or version."""
        versions = self.of_model(model)
        for loaded in versions:
            if loaded.plan.version == version:
                return loaded
        known = ", ".join(loaded.plan.version for loaded in versions)
        raise NotFoundError(f"Model '{model}' has no version '{version}' here; its versions are: {known}.")

    def choose(self, model: str, point: float) -> LoadedVersion:
        """Return the version in whose share of the model's traffic the point of [0, 1) falls."""
        versions = self.of_model(model)
        return versions[0] if len(versions) == 1 else versions[self._lotteries[model].draw(point)]
