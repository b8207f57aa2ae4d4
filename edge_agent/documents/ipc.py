"""What the processes of one agent say to each other: one JSON document a line.

The supervisor and serving talk over a socketpair (`ToServing`, `FromServing`); sync and probe read one request
from standard input and write progress and one result to standard output. Tagged structs, decoded by type.
"""

from typing import Any, Literal

import msgspec

from edge_agent.documents.messages import MetricsMessage
from edge_agent.documents.plan import LeftOut, Plan, VersionPlan
from edge_agent.documents.settings import (
    CacheSettings,
    EngineSettings,
    GrpcSettings,
    HttpSettings,
    MemorySettings,
    OutcomeSettings,
    SequenceSettings,
    Settings,
    SharedMemorySettings,
    TaskSettings,
)


class _Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower, kw_only=True):
    pass


# --- the command line to the agent --------------------------------------------------------------------------


class Launch(_Message, frozen=True):
    """How the agent starts: read from the descriptor named on its command line, written by the CLI.

    The CLI validates the settings with pydantic, fills in `device.id`, `paths.state` and `paths.runtime`, and
    executes `python -m edge_agent.control.agent --launch-fd N` in its own place, so that the resident process
    never holds pydantic. `plan` is set by `edge-agent serve`: serve just this, look at no store.
    """

    settings: Settings
    plan: Plan | None = None
    config: str | None = None
    """The settings file that was named on the command line."""
    problems: tuple[str, ...] = ()
    """What is wrong with the settings as they are now, one sentence each: then `settings` are the last valid
    ones, and the agent reports the problems as its own."""


# --- supervisor to serving ----------------------------------------------------------------------------------


class Configure(_Message, frozen=True):
    """First message: how to serve. `device` is the device id."""

    device: str
    http: HttpSettings
    engines: EngineSettings
    cache: CacheSettings
    outcomes: OutcomeSettings
    outcomes_db: str
    """Path of the outcomes database, which serving alone writes."""
    secret: str
    """Hexadecimal: 32 random bytes of this device, never shown: prediction ids are authenticated with them."""
    grpc: GrpcSettings = GrpcSettings()
    grpc_socket: str | None = None
    """Path of the Unix socket to bind for gRPC, None for none: unlike the others it cannot be inherited."""
    shared_memory: SharedMemorySettings = SharedMemorySettings()
    sequences: SequenceSettings = SequenceSettings()
    tasks: TaskSettings = TaskSettings()
    memory: MemorySettings = MemorySettings()
    log_level: str = "info"
    unsigned: bool = False
    """True for `edge-agent serve`: the model did not come from a signed store."""


class Apply(_Message, frozen=True):
    """Serve this plan: load what is new beside the old, switch at once, drain and unload the rest.

    `slots` maps each version's key to its slot on the health page. With `prove`, what is new must answer its
    golden samples within their tolerances first: not asked of what served before.
    """

    plan: Plan
    slots: dict[str, int]
    prove: bool = False
    left_out: tuple[LeftOut, ...] = ()
    """What is deployed and not in the plan, for those who ask."""


class Drain(_Message, frozen=True):
    """Answer what has begun with `Connection: close`, then exit 0."""


class Link(_Message, frozen=True):
    """How the link to the fleet is, for `/metrics`; sent every few seconds, never without a link."""

    up: bool
    outbox_events: int


class ModelChanged(_Message, frozen=True):
    """What came of the `ChangeModel` with this id: `error` is empty, or says in one sentence why not."""

    id: int
    error: str = ""
    status: int = 200


ToServing = Configure | Apply | Drain | Link | ModelChanged


# --- serving to supervisor ----------------------------------------------------------------------------------


class Ready(_Message, frozen=True):
    """The sockets are being served."""

    pid: int


class Applied(_Message, frozen=True):
    """The plan is being served, and the old one is unloaded or draining."""

    plan_id: str
    load_s: dict[str, float]
    """Seconds that each newly loaded version took, by key."""


class Refused(_Message, frozen=True):
    """The plan was not applied and the one before is still served; `key` names the version at fault."""

    plan_id: str
    key: str | None
    reason: str
    by_device: bool = False
    """Whether this device is to blame and not the version, which may load another time."""


class StateDamaged(_Message, frozen=True):
    """The outcomes database was damaged and has been set aside; `message` says so in one sentence."""

    message: str


class Impaired(_Message, frozen=True):
    """Something that is set cannot be served, while everything else is; `message` says why in one sentence."""

    message: str


class Metrics(_Message, frozen=True):
    """Sent every few seconds while anything changes; the latest counts. Outbox numbers are the supervisor's."""

    metrics: MetricsMessage


class ChangeModel(_Message, frozen=True):
    """A client asks to have a model loaded or unloaded; `actor` says who, for the journal."""

    id: int
    model: str
    load: bool
    actor: str


FromServing = Ready | Applied | Refused | StateDamaged | Impaired | Metrics | ChangeModel


# --- the sync child -----------------------------------------------------------------------------------------


class SyncRequest(_Message, frozen=True):
    """Look at the store and bring what this device shall run into the state folder."""

    settings: Settings
    quarantined: dict[str, str]
    """Variants not to choose again: file digest to reason."""
    force: bool = False
    """Look even when the store's timestamp has not changed."""
    folder: str | None = None
    """Take the store from this folder, for example a USB stick, instead of the URL."""
    have: dict[str, tuple[str, ...]] = {}
    """Digests of the model files that are here, by model, best first: a new version may be made from one."""
    at_once: bool = False
    """Fetch what the byte budget and the maintenance window would hold back."""
    known_plans: tuple[str, ...] | None = None
    """Ids of the plans that the supervisor holds: only if the last sync's is one of them may the answer be
    `unchanged` without a look at the documents. None leaves this check out."""


class SyncProgress(_Message, frozen=True):
    """How far the downloads are; `total_bytes` counts what had to be fetched."""

    message: str
    done_bytes: int = 0
    total_bytes: int = 0
    rate_bytes_per_s: float = 0.0
    """Of the last seconds."""


class SyncResult(_Message, frozen=True):
    """What came of it.

    `unchanged`: nothing new. `plan`: this is what the device shall run, and all of its files are here; an
    empty one if its group has no deployment. `paused`: nothing changed, the rest of the files waits until
    `until_s`. `failed`: nothing changed; `message` says why, `kind` who can repair it.
    """

    status: Literal["unchanged", "plan", "paused", "failed"]
    kind: Literal["", "network", "trust", "model", "operator"] = ""
    message: str = ""
    plan: Plan | None = None
    """Set with `plan` alone."""
    waits_for: Literal["", "budget", "window"] = ""
    until_s: float | None = None
    """Unix time; None where it never comes."""
    retry_after_s: float = 0.0
    """How long a failing store has asked to be left alone."""
    expires_s: float | None = None
    warnings: tuple[str, ...] = ()
    downloaded_bytes: int = 0


FromSync = SyncProgress | SyncResult


# --- the probe child ----------------------------------------------------------------------------------------


class ProbeRequest(_Message, frozen=True):
    """Try this version on this device; without one, only say how far the probe can be confined here."""

    version: VersionPlan | None
    engines: EngineSettings
    cpu_limit_s: int
    """Processor time of all threads together."""


class ProbeVerdict(_Message, frozen=True):
    """Whether the version may be served here.

    `passed`; `failed`: the model's fault, quarantine it; `inconclusive`: not the model's fault, try again.
    """

    outcome: Literal["passed", "failed", "inconclusive"]
    reason: str = ""
    is_unreadable: bool = False
    """Whether a file of it could not be read: it may be damaged here."""
    runtime: str = ""
    """Runtime and version that ran it, for example `onnxruntime 1.32.0`."""
    load_s: float = 0.0
    run_s: float = 0.0
    """Median seconds of one golden run, of one with zeros where there are no golden samples."""
    peak_bytes: int = 0
    """Highest resident size of the probe."""
    gaps: tuple[str, ...] = ()
    """What this host has no way to take from the probe, for example the network."""


# --- the admin socket ---------------------------------------------------------------------------------------


class AdminRequest(msgspec.Struct, frozen=True):
    """One command of an operator; the answer is any number of `AdminProgress` and one `AdminAnswer`."""

    verb: str
    arguments: dict[str, Any] = {}


class AdminProgress(_Message, frozen=True):
    """Something to show while a command runs."""

    message: str
    done_bytes: int = 0
    total_bytes: int = 0


class AdminAnswer(_Message, frozen=True):
    """The end of a command: `result` if `error` is empty. `exit_code` is for the command line."""

    result: Any = None
    error: str = ""
    exit_code: int = 0


FromAdmin = AdminProgress | AdminAnswer
