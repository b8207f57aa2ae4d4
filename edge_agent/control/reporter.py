"""What really runs on this device and why not more, gathered from those who know."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import edge_agent
from edge_agent.control.withheld import UNLOADED
from edge_agent.documents.messages import (
    BakeReport,
    ProbeReport,
    QuarantineReport,
    Reported,
    SyncReport,
    VersionReport,
    VersionState,
    Wait,
)
from edge_agent.documents.plan import Plan, VersionPlan
from edge_agent.store.state import DeployedState
from edge_agent.telemetry.health_page import SlotCounts

QUARANTINE_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Sight:
    """All that a report is made from."""

    device: str
    state: DeployedState
    wanted: Plan
    """The plan that serving shall serve."""
    serving: Plan | None
    """The plan that serving has applied."""
    left_out: Mapping[str, str]
    """File digest to reason."""
    probing: str | None
    """Key of the version that is being probed."""
    counts: Mapping[str, SlotCounts]
    """By version key."""
    sync: SyncReport
    problems: Collection[str]
    withheld: Collection[str] = ()
    """Models that somebody has asked not to be served for now."""
    waits: tuple[Wait, ...] = ()
    bake: BakeReport | None = None


def report(sight: Sight) -> Reported:
    """Compose the report."""
    state, target = sight.state, sight.state.target
    shown = {version.key: version for version in sight.wanted.versions}
    for plan in (state.current, target):
        shown |= {version.key: version for version in (plan.versions if plan is not None else ())}
    return Reported(
        device=sight.device,
        agent_version=edge_agent.__version__,
        group=state.current.group,
        serial=state.current.serial,
        plan_id=sight.serving.id if sight.serving is not None else "",
        target_serial=target.serial if target is not None else None,
        versions=tuple(_version(shown[key], sight) for key in sorted(shown)),
        sync=sight.sync,
        waits=sight.waits,
        problems=tuple(sight.problems),
        bake=sight.bake,
        held=held(state),
        quarantine=quarantined(state)[-QUARANTINE_SHOWN:],
    )


def quarantined(state: DeployedState) -> tuple[QuarantineReport, ...]:
    """Return what shall not run here, oldest first."""
    return tuple(
        QuarantineReport(entry.model, entry.version, sha256, entry.reason, entry.time_s, entry.actor)
        for sha256, entry in state.quarantine.items()
    )


def held(state: DeployedState) -> str | None:
    """Return why a deployment is not activated though it is here, in a sentence; None where none is held."""
    if state.held is None:
        return None
    return f"{state.held_reason or 'An operator rolled back.'} Serial {state.held.split('/')[1]} is held."


def _version(version: VersionPlan, sight: Sight) -> VersionReport:
    counts, probed = sight.counts.get(version.key), sight.state.passed.get(version.key)
    reason = UNLOADED if version.model in sight.withheld else sight.left_out.get(version.sha256)
    return VersionReport(
        model=version.model,
        version=version.version,
        state=_state(version, sight),
        engine=version.engine,
        precision=version.precision,
        sha256=version.sha256,
        weight=version.weight,
        requests=counts.requests if counts is not None else 0,
        errors=counts.errors if counts is not None else 0,
        crashes=sum(version.key in incident.suspects for incident in sight.state.incidents),
        reason=reason,
        probe=None if probed is None else ProbeReport(**dataclasses.asdict(probed)),
    )


def _state(version: VersionPlan, sight: Sight) -> VersionState:
    if sight.serving is not None and version in sight.serving.versions:
        return "serving"
    if version.sha256 in sight.state.quarantine:
        return "quarantined"
    if version.sha256 in sight.left_out or version.model in sight.withheld:
        return "left_out"
    if version.key == sight.probing:
        return "probing"
    return "loading" if version in sight.wanted.versions else "waiting"
