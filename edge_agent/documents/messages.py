"""What the agent tells others: events, and the report of what really runs.

Plain dataclasses, since the resident processes make them; readers outside validate them with pydantic's
`TypeAdapter`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge

EventType = Literal[
    "started",
    "stopped",
    "installed",
    "probed",
    "activated",
    "refused",
    "quarantined",
    "baked",
    "breached",
    "released",
    "rolled_back",
    "loaded",
    "unloaded",
    "crashed",
    "hung",
    "restarted",
    "collected",
    "sync_failed",
    "sync_paused",
    "sync_recovered",
    "state_damaged",
    "warning",
]


VersionState = Literal["serving", "loading", "probing", "waiting", "left_out", "quarantined", "stopped"]
"""`waiting`: fetched, not yet probed or activated; `left_out`: could not be loaded, tried again later, or was
unloaded on request; `stopped`: the agent does not run, and would serve it."""


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
    """Who caused it: `agent`, `store` (a signed document), or an operator: the user's name on this host,
    `uid:<n>` where it has none here, `tcp` for the bearer of the admin token."""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What the probe measured of a version on this device, before it was activated."""

    runtime: str
    """Runtime and version that ran it."""
    load_s: Annotated[float, Ge(0)]
    run_s: Annotated[float, Ge(0)]
    """Median seconds of one run."""
    peak_bytes: Annotated[int, Ge(0)]
    """Highest resident size of the probe, the runtime included."""
    time_s: Annotated[float, Ge(0)]
    """When, Unix time."""


@dataclass(frozen=True, slots=True)
class QuarantineReport:
    """A file that shall not run on this device, until other files are published or an operator releases it."""

    model: str
    version: str
    sha256: str
    reason: str
    time_s: Annotated[float, Ge(0)]
    """Since when, Unix time."""
    actor: str
    """Who says so, as `Event.actor`."""


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
    probe: ProbeReport | None = None
    """Null for a version that has passed no probe here."""


@dataclass(frozen=True, slots=True)
class SyncStep:
    """How far the sync that is under way is; `total_bytes` counts what had to be fetched, 0 if nothing has."""

    step: str
    done_bytes: Annotated[int, Ge(0)] = 0
    total_bytes: Annotated[int, Ge(0)] = 0
    rate_bytes_per_s: Annotated[float, Ge(0)] = 0.0
    """Of the last seconds."""
    eta_s: float | None = None
    """Seconds until all is here at that rate; null where that cannot be told."""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """How the last look at the store went; `paused`: not all of what it found is here, and `waits` says why."""

    state: Literal["never", "running", "ok", "paused", "failed", "off"]
    finished_s: float | None = None
    message: str | None = None
    expires_s: float | None = None
    """When the first of the trusted metadata expires, Unix time."""
    step: SyncStep | None = None
    """Set while it runs. Over MQTT it is told anew every 10 s, or 10 % of the bytes."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What an update waits for, and until when: nothing is wrong, it goes on by itself."""

    reason: Literal["window", "budget"]
    until_s: float | None
    """Unix time; null where it never comes."""
    message: str
    """One sentence for a person."""


@dataclass(frozen=True, slots=True)
class BakingVersion:
    """A version on trial: what it has done since it serves, and may do; null is no limit, or no figure."""

    model: str
    version: str
    requests: Annotated[int, Ge(0)] = 0
    error_rate: Annotated[float, Ge(0)] = 0.0
    max_error_rate: float | None = None
    p99_s: float | None = None
    """The 99th percentile of its run times."""
    max_p99_s: float | None = None


@dataclass(frozen=True, slots=True)
class BakeReport:
    """The trial that the active plan is on: it stays if it has kept all limits for another `left_s`."""

    serial: int
    left_s: Annotated[float, Ge(0)]
    versions: tuple[BakingVersion, ...] = ()


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
    waits: tuple[Wait, ...] = ()
    """What an update waits for: a maintenance window, or more bytes for downloads."""
    bake: BakeReport | None = None
    """Null when what runs is on trial no more."""
    held: str | None = None
    """Why a deployment that is here is not activated: it was gone back from, or given up. Null if none is."""
    quarantine: tuple[QuarantineReport, ...] = ()
    """The newest twenty, oldest first."""
    schema: Literal[1] = 1


# --- over MQTT: each payload below is JSON on the topic that `documents.topics` names ------------------------


@dataclass(frozen=True, slots=True)
class EventMessage:
    """An event on `up/event/<type>`, QoS 1; a receiver may see it twice and counts it once, by `id`."""

    id: str
    """`<epoch>-<seq>`; the epoch is random for each database, seq counts up without gaps in one epoch."""
    event: Event
    schema: Literal[1] = 1


@dataclass(frozen=True, slots=True)
class VersionCounters:
    """Cumulative counts of one version since `MetricsMessage.started_s`."""

    model: str
    version: str
    arm: str
    requests: Annotated[int, Ge(0)] = 0
    errors: Annotated[int, Ge(0)] = 0
    cache_hits: Annotated[int, Ge(0)] = 0
    cache_misses: Annotated[int, Ge(0)] = 0
    latency_s: dict[str, Any] = field(default_factory=dict)
    """A mergeable sketch of request seconds: `telemetry.sketch.Sketch` as builtins."""


@dataclass(frozen=True, slots=True)
class MetricsMessage:
    """Metrics on `up/metrics`, QoS 1 with expiry; only the latest matters."""

    time_s: float
    started_s: float
    """The counts are from this time on; a later one means that they began again at nought."""
    versions: tuple[VersionCounters, ...] = ()
    cache_bytes: Annotated[int, Ge(0)] = 0
    cache_entries: Annotated[int, Ge(0)] = 0
    cache_evictions: Annotated[int, Ge(0)] = 0
    outbox_events: Annotated[int, Ge(0)] = 0
    """Events that the broker has not acknowledged yet."""
    schema: Literal[1] = 1


@dataclass(frozen=True, slots=True)
class ArmSums:
    """Cumulative sums of one metric's outcomes in one arm and bucket: n, sum of x, sum of x squared."""

    arm: str
    bucket: Annotated[int, Ge(0)]
    metric: str
    n: Annotated[int, Ge(0)]
    sum: float
    sum_squares: float


@dataclass(frozen=True, slots=True)
class AbMessage:
    """Cumulative outcomes on `up/ab/<experiment>`, QoS 1; one message per model and epoch, the latest counts.

    Cumulative, so that a message seen twice or missed changes nothing. `database` is random for each database:
    with a new one the sums begin again, and a receiver adds those of both.
    """

    database: str
    revision: Annotated[int, Ge(0)]
    """Grows with each change; a receiver ignores a lower one of the same database, model and epoch."""
    model: str
    experiment: str
    epoch: Annotated[int, Ge(0)]
    exposures: dict[str, int]
    """Predictions made, by arm."""
    sums: tuple[ArmSums, ...]
    part: Annotated[int, Ge(0)] = 0
    """Sums too large for one message are told in parts; each part has arms, buckets and metrics of its own."""
    schema: Literal[1] = 1


@dataclass(frozen=True, slots=True)
class DesiredHint:
    """The retained hint on `_group/<group>/desired`: look at the store within `spread_s` seconds, jittered.

    Only a hint: what a device runs comes from the store's signed documents.
    """

    serial: Annotated[int, Ge(0)]
    spread_s: Annotated[float, Ge(0)] = 0.0
    schema: Literal[1] = 1
