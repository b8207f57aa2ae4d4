"""What the agent does next, from what it has, what it wants and what is under way. Pure.

The states of a target and the transitions between them:

| the target is         | and                          | then                                   |
|-----------------------|------------------------------|----------------------------------------|
| absent                | a look at the store is due   | sync                                   |
| present, held         | (gone back from, or given up)| drop it                                |
| present               | a version is quarantined     | drop it, sync for another variant      |
| present               | a version is not yet probed  | probe it                               |
| present, all passed   | serving is ready             | activate it, in its window             |
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from edge_agent.documents.plan import LeftOut, Plan, VersionPlan, with_id


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision depends on."""

    wanted: Plan
    """What serving shall serve now; see `effective`."""
    serving_ready: bool
    serving_plan: str | None
    """Id of the plan that serving has applied, None after a start."""
    applying: bool
    """A plan was sent to serving and not answered yet."""
    child_busy: bool
    """A sync or a probe is running; the two never run at once."""
    sync_due: bool
    is_deferred: bool
    """The target waits for its next try, as this device could not probe or load it."""
    target: Plan | None
    held: str | None
    held_reason: str | None
    """A sentence; None where an operator has rolled back."""
    passed: Collection[str]
    quarantine: Mapping[str, str]
    may_activate: bool = True
    """False outside the maintenance windows of the target."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Send serving the plan that it should have but has not."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Activate:
    """Send serving the target; it becomes current once serving says that it is applied."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Probe:
    """Try a version of the target."""

    version: VersionPlan


@dataclass(frozen=True, slots=True)
class DropTarget:
    """Forget the target; `resync` asks the store for another variant. The reason is a sentence."""

    reason: str
    resync: bool


@dataclass(frozen=True, slots=True)
class Sync:
    """Look at the store."""


Action = Serve | Activate | Probe | DropTarget | Sync


def decide(now: Situation) -> Action | None:
    """Return the next action, or None when there is nothing to do until something changes."""
    if now.serving_ready and not now.applying and now.serving_plan != now.wanted.id:
        return Serve(now.wanted)
    if now.target is not None:
        action = _towards(now.target, now)
        if action is not None and not _waits(action, now):
            return action
    if now.sync_due and not now.child_busy and not now.applying:
        return Sync()
    return None


def waits_for_window(now: Situation) -> bool:
    """Say whether the target waits for nothing but its windows, whatever else is under way."""
    calm = dataclasses.replace(now, child_busy=False, applying=False, serving_ready=True)
    return now.target is not None and _waits(_towards(now.target, calm), now)


def _waits(action: Action | None, now: Situation) -> bool:
    return isinstance(action, Activate) and not now.may_activate


def _towards(target: Plan, now: Situation) -> Action | None:
    if now.held == identity(target):
        return DropTarget(now.held_reason or "An operator rolled back from it.", resync=False)
    for version in target.versions:
        if reason := now.quarantine.get(version.sha256):
            return DropTarget(f"{version.model} {version.version}: {reason}", resync=True)
    if now.child_busy or now.applying or now.is_deferred:
        return None
    unproven = unprobed(target, now)
    if unproven is not None:
        return Probe(unproven)
    return Activate(target) if now.serving_ready else None


def unprobed(target: Plan, now: Situation) -> VersionPlan | None:
    """Return the first version of the target that neither passed its probe nor is being served already."""
    proven = set(now.passed) | {version.key for version in now.wanted.versions}
    return next((version for version in target.versions if version.key not in proven), None)


def fresh(plan: Plan, before: Plan) -> tuple[VersionPlan, ...]:
    """Return the versions of a plan that another one does not have."""
    known = {version.key for version in before.versions}
    return tuple(version for version in plan.versions if version.key not in known)


def identity(plan: Plan) -> str:
    """Name what a plan was compiled from, whatever variants were chosen: `group/serial/origin`."""
    return f"{plan.group}/{plan.serial}/{plan.origin}"


def effective(
    current: Plan, fallback: Mapping[str, tuple[VersionPlan, ...]], left_out: Collection[str]
) -> Plan:
    """Return `current` without the versions whose file digests are left out.

    A model that loses all its versions falls back to those that served before them, where those are sound.
    """
    if not any(version.sha256 in left_out for version in current.versions):
        return current
    kept = [version for version in current.versions if version.sha256 not in left_out]
    served = {version.model for version in kept}
    before = [
        version
        for model in current.models
        if model not in served
        for version in fallback.get(model, ())
        if version.sha256 not in left_out
    ]
    return with_id(dataclasses.replace(current, versions=(*kept, *before)))


def missing(deployed: Plan, served: Plan, why: Callable[[VersionPlan], str]) -> tuple[LeftOut, ...]:
    """Return what is deployed and not served; `why` says the reason for each version."""
    keys = {version.key for version in served.versions}
    return tuple(
        LeftOut(version.model, version.version, why(version))
        for version in deployed.versions
        if version.key not in keys
    )


def superseded(
    old: Plan, new: Plan, fallback: Mapping[str, tuple[VersionPlan, ...]]
) -> dict[str, tuple[VersionPlan, ...]]:
    """Return what each model of `new` falls back to, once `new` is served in place of `old`.

    That is the old versions where they differ from the new, else what it was before.
    """
    return {
        model: old.of_model(model)
        if {v.key for v in old.of_model(model)} - {v.key for v in new.of_model(model)}
        else fallback.get(model, ())
        for model in new.models
    }


def gone_back(
    back: Plan, fallback: Mapping[str, tuple[VersionPlan, ...]], on_trial: Collection[str]
) -> dict[str, tuple[VersionPlan, ...]]:
    """Return what each model of `back` falls back to, once it is served in place of a plan that was on trial.

    What was on trial, by key, is nothing to fall back to: that would serve it again, and without a trial.
    """
    sound = {
        model: tuple(version for version in fallback.get(model, ()) if version.key not in on_trial)
        for model in back.models
    }
    return {model: versions for model, versions in sound.items() if versions}
