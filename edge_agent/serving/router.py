"""Which loaded version answers a request, and as which arm: the table of one plan, replaced as a whole."""

from collections.abc import Callable, Sequence

import msgspec

from edge_agent.documents.errors import NotFoundError
from edge_agent.documents.plan import ArmPlan, LeftOut, ModelPlan, Plan
from edge_agent.policy.assignment import BUCKETS, DIRECT, FALLBACK, Lottery, bucket_of
from edge_agent.serving.loader import LoadedVersion


class Choice(msgspec.Struct, frozen=True):
    """Who answers a request. `is_exposure`: by chance, so that its outcome may be compared."""

    loaded: LoadedVersion
    policy: ModelPlan
    arm: str
    bucket: int
    is_exposure: bool


class Route:
    """How the requests to one model find their version."""

    def __init__(self, policy: ModelPlan, versions: Sequence[LoadedVersion], device: str) -> None:
        self.policy = policy
        self.versions = tuple(versions)
        arms = policy.arms or _arms(versions)
        by_version = {loaded.plan.version: loaded for loaded in versions}
        salt = policy.salt or policy.model
        self._served = tuple(by_version.get(arm.version) for arm in arms)
        self._lottery = Lottery(salt, arms)
        self._fallback = Lottery(salt, _arms(versions))
        self._device = device

    def assign(self, unit: str | None, random: Callable[[], float]) -> Choice:
        """Return who answers a request of this unit, or one without; `random` returns points of [0, 1).

        Where the version of the unit's arm is not served here another one answers, always the same one for a
        unit, and the arm is called `fallback`.
        """
        kind = self.policy.unit
        if kind == "device":
            unit = self._device
        elif kind == "request":
            unit = None
        index = self._lottery.draw(random()) if unit is None else self._lottery.arm_of(unit)
        bucket = int(random() * BUCKETS) if unit is None else bucket_of(unit)
        loaded = self._served[index]
        if loaded is not None:
            return Choice(loaded, self.policy, self._lottery.arms[index].name, bucket, True)
        index = self._fallback.draw(random()) if unit is None else self._fallback.arm_of(unit)
        return Choice(self.versions[index], self.policy, FALLBACK, bucket, False)

    def direct(self, version: str, unit: str | None, random: Callable[[], float]) -> Choice:
        """Return the version that a request has named; raises NotFoundError for an unknown one."""
        bucket = int(random() * BUCKETS) if unit is None else bucket_of(unit)
        return Choice(self.named(version), self.policy, DIRECT, bucket, False)

    def named(self, version: str) -> LoadedVersion:
        """Return one version; raises NotFoundError for an unknown one."""
        for loaded in self.versions:
            if loaded.plan.version == version:
                return loaded
        known = ", ".join(loaded.plan.version for loaded in self.versions)
        raise NotFoundError(
            f"Model '{self.policy.model}' has no version '{version}' here; its versions are: {known}."
        )


class Table:
    """The versions of one plan, loaded. Never changes; a new plan is a new table. `device` is its id.

    `left_out` is what is deployed to the device and not served.
    """

    def __init__(
        self, plan: Plan, versions: Sequence[LoadedVersion], device: str, left_out: Sequence[LeftOut] = ()
    ) -> None:
        self.plan = plan
        self.versions = tuple(versions)
        self.left_out = tuple(left_out)
        self._routes = {
            model: Route(
                plan.policy(model), [loaded for loaded in versions if loaded.plan.model == model], device
            )
            for model in plan.models
        }

    def route(self, model: str) -> Route:
        """Return how a model's requests find their version; raises NotFoundError for an unknown model."""
        route = self._routes.get(model)
        if route is None:
            if (reason := self.why_left_out(model, None)) is not None:
                raise NotFoundError(f"Model '{model}' is not served now: {reason}")
            known = ", ".join(self._routes) or "none"
            raise NotFoundError(f"There is no model '{model}' here; the models are: {known}.")
        return route

    def why_left_out(self, model: str, version: str | None) -> str | None:
        """Return why a model, or one version of it, is deployed and not served; None for any other."""
        for found in self.left_out:
            if found.model == model and version in (None, found.version):
                return found.reason
        return None

    def of_model(self, model: str) -> tuple[LoadedVersion, ...]:
        """Return a model's versions in the plan's order; raises NotFoundError for an unknown model."""
        return self.route(model).versions

    def named(self, model: str, version: str) -> LoadedVersion:
        """Return one version; raises NotFoundError for an unknown model or version."""
        return self.route(model).named(version)


def _arms(versions: Sequence[LoadedVersion]) -> tuple[ArmPlan, ...]:
    plans = (loaded.plan for loaded in versions)
    return tuple(ArmPlan(plan.arm or plan.version, plan.version, plan.weight) for plan in plans)
