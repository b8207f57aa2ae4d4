"""Which changes wait for no maintenance window. Pure."""

from collections.abc import Collection

from edge_agent.documents.plan import Plan
from edge_agent.policy.reconcile import identity


def is_urgent(
    target: Plan, current: Plan, previous: Plan | None, quarantine: Collection[str], held: str | None = None
) -> bool:
    """Say whether a target puts something right: the sooner it is served, the better.

    It is the first that this device serves, or what served before comes back, or a version that is deployed is
    in `quarantine` (digests of model files) and does not serve. What was gone back from, and is `held` (the
    identity of that plan), served before, too, but puts nothing right.
    """
    if not current.versions or any(version.sha256 in quarantine for version in current.versions):
        return True
    if previous is None or identity(previous) == held:
        return False
    return _keys(target) == _keys(previous)


def _keys(plan: Plan) -> set[str]:
    return {version.key for version in plan.versions}
