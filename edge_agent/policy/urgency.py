"""Which changes wait for no maintenance window. Pure."""

from collections.abc import Collection

from edge_agent.documents.plan import Plan


def is_urgent(target: Plan, current: Plan, previous: Plan | None, quarantine: Collection[str]) -> bool:
    """Say whether a target puts something right: the sooner it is served, the better.

    It is the first that this device serves, or what served before comes back, or a version that is deployed is
    in `quarantine` (digests of model files) and does not serve.
    """
    if not current.versions or any(version.sha256 in quarantine for version in current.versions):
        return True
    return previous is not None and _keys(target) == _keys(previous)


def _keys(plan: Plan) -> set[str]:
    return {version.key for version in plan.versions}
