"""What the agent tells others: events, and the report of what really runs.

Plain dataclasses, since the resident processes make them; readers outside validate them with pydantic's
`TypeAdapter`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge

EventType = Literal[
    "started",
    "stopped",
    "installed",
    "activated",
    "refused",
    "quarantined",
    "rolled_back",
    "crashed",
    "hung",
    "restarted",
    "sync_failed",
    "sync_recovered",
    "state_damaged",
    "warning",
]


VersionState = Literal["serving", "loading", "probing", "waiting", "left_out", "quarantined"]
"""`waiting`: fetched, not yet probed or activated; `left_out`: could not be loaded, tried again later."""


@dataclass(frozen=True, slots=True)
class Event:
    """One audited change of state: what happened, to which model and version, and why."""

    type: EventType
    time_s: Annotated[float, Ge(0)]
    """Unix time."""
    message: str
    """One sentence for a person."""
    model: str | None = None
    version: str | None = None
    serial: int | None = None
    actor: str = "agent"
    """`agent`, or the operator as `uid:<n>`."""


@dataclass(frozen=True, slots=True)
class VersionReport:
    """One version as it is on this device."""

    model: str
    version: str
    state: VersionState
    engine: str
    precision: str
    sha256: str
    weight: float = 1.0
    requests: Annotated[int, Ge(0)] = 0
    errors: Annotated[int, Ge(0)] = 0
    crashes: Annotated[int, Ge(0)] = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SyncReport:
    """How the last look at the store went."""

    state: Literal["never", "running", "ok", "failed", "off"]
    finished_s: float | None = None
    message: str | None = None
    expires_s: float | None = None
    """When the first of the trusted metadata expires, Unix time."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What really runs, for which serial, and why not more."""

    device: str
    agent_version: str
    group: str
    serial: int
    plan_id: str
    target_serial: int | None = None
    """The serial that was fetched but is not active; null when there is none."""
    versions: tuple[VersionReport, ...] = ()
    sync: SyncReport = field(default_factory=lambda: SyncReport("never"))
    problems: tuple[str, ...] = ()
    """What an operator should know, one sentence each; empty when all is well."""
    schema: Literal[1] = 1
