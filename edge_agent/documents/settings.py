"""The agent's settings: what they are, their defaults and bounds.

Plain dataclasses, so that the resident processes can hold them without pydantic; `settings_file` reads and
validates them with pydantic from TOML and the environment. Units are in the names.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

Port = Annotated[int, Ge(0), Le(65535)]
"""A TCP port; 0 lets the kernel choose one."""


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """Who this device is."""

    id: str = ""
    """1 to 64 of letters, digits, `-` and `_`; the default is derived from /etc/machine-id."""
    labels: dict[str, str] = field(default_factory=dict)
    """Facts that `deployments/groups.json` maps to a group, for example `site = "ulm"`."""


@dataclass(frozen=True, slots=True)
class PathSettings:
    """Where the agent keeps its files; empty means the default for a service or for a user."""

    state: str = ""
    """Trust, blobs, staging and state; /var/lib/edge-agent, or the user's state folder."""
    runtime: str = ""
    """Sockets; /run/edge-agent, or the user's runtime folder."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where signed versions come from, and how to get there."""

    url: str | None = None
    """Base URL of the store: http, https or file; without one the agent serves what it has."""
    root: str | None = None
    """Path of the trusted root.json that came with the device."""
    poll_interval_s: Annotated[float, Ge(1)] = 300.0
    timeout_s: Annotated[float, Gt(0)] = 30.0
    """How long the store may stay silent before an attempt is given up."""
    metadata_deadline_s: Annotated[float, Gt(0), Le(540)] = 300.0
    """How long the signed metadata of one look may take to come, whole."""
    max_file_bytes: Annotated[int, Ge(1)] = 4 * 2**30
    """The largest file that is fetched, whatever was signed; there must be space for it too."""
    rate_limit_bytes_per_s: Annotated[int, Ge(1024)] | None = None
    """How fast files are fetched at most; as fast as they come unless set."""
    budget_bytes: Annotated[int, Ge(1)] | None = None
    """How much may be fetched in each period, for metered links; then downloads pause until it turns. All that
    HTTP carries counts, which is some percent less than the link does; metadata is counted, and fetched."""
    budget_period: Literal["day", "month"] = "month"
    """Of the calendar, by the device's own time zone."""
    proxy: str | None = None
    ca_bundle: str | None = None
    bearer_token_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """When what was published may take over from what serves."""

    window: str | None = None
    """When a new version may be activated, for example `02:00-05:00` or `mon-fri 22:00-04:00; sun 00:00-24:00`;
    at any time unless set. By the device's own time zone, unless `UTC` stands at the end. The first version
    waits for no window, nor does what served before, nor what replaces a version in quarantine."""
    download_outside_window: bool = True
    """Whether files are fetched at any time; else a download waits for the window, and pauses at its end."""


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where local apps reach the Open Inference Protocol."""

    socket_mode: Annotated[int, Ge(0), Le(0o777)] = 0o660
    socket_group: str | None = None
    """Group that may connect to infer.sock; the default leaves the group of the agent's user."""
    tcp_host: str = "127.0.0.1"
    tcp_port: Port | None = None
    """Port of the protocol on TCP; none unless set. 8000 is what Triton's clients expect."""
    metrics_port: Port | None = None
    """Port for /metrics and /v2/health alone; none unless set. 8002 is what Triton uses."""
    max_connections: Annotated[int, Ge(1)] = 8192
    """Connections at a time; more are told to come back. As many as the service may open files, at most."""
    max_body_bytes: Annotated[int, Ge(1024)] = 64 * 2**20
    max_bodies_bytes: Annotated[int, Ge(1024)] = 160 * 2**20
    """What the bodies of all requests that wait or run may take; more get 503 with Retry-After."""
    idle_timeout_s: Annotated[float, Gt(0)] = 75.0
    request_timeout_s: Annotated[float, Gt(0)] = 60.0
    """How long a client may take to send one request."""
    queue_limit: Annotated[int, Ge(1)] = 256
    """Requests of one model that may wait for its runtime; more get 503 with Retry-After."""
    server_name: str = "edge-agent"
    """What `/v2` calls this server, for tools that insist on a name, such as `triton`."""
    tcp_admin: bool = False
    """Whether models may be loaded and unloaded over TCP, with the token of `admin_token_file`."""
    admin_token_file: str | None = None
    """A file with the token that such a request must bear (`Authorization: Bearer …`)."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the runtimes are set up on this device."""

    threads: Annotated[int, Ge(0), Le(1024)] = 0
    """Threads of one run; 0 uses all cores."""
    onnx_providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """ONNX Runtime execution providers, best first; one that is not installed is an error, not a fallback."""
    tflite_runtime: Literal["auto", "ai-edge-litert", "tflite-runtime"] = "auto"
    tflite_delegate: str | None = None
    """Path of a delegate library, for example libedgetpu.so.1."""
    tflite_delegate_options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """Limits of the probe that tries a version before it is activated."""

    timeout_s: Annotated[float, Gt(0)] = 120.0
    """How long the probe may take for one version."""
    cpu_limit_s: Annotated[int, Ge(0)] = 0
    """Processor time of all its threads together; 0 sets `timeout_s` for each processor."""
    memory_limit_bytes: Annotated[int, Ge(0)] = 0
    """Resident memory at which the version fails; 0 sets three quarters of what the device has."""


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """How the serving process is kept alive."""

    crash_limit: Annotated[int, Ge(1)] = 3
    """Crashes or hangs charged to a version before it is left out."""
    crash_window_s: Annotated[float, Gt(0)] = 86_400.0
    """How long a crash is held against a version."""
    heartbeat_timeout_s: Annotated[float, Ge(1)] = 30.0
    """How long the serving process may be silent before it counts as hung."""
    drain_timeout_s: Annotated[float, Gt(0)] = 30.0
    """How long a stopping serving process may take to answer what it has begun."""
    start_timeout_s: Annotated[float, Gt(0)] = 60.0
    """How long a new serving process may take to say that it is ready."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """How many results are remembered."""

    max_bytes: Annotated[int, Ge(0)] = 16 * 2**20
    """Memory for all remembered results; 0 switches the cache off."""
    max_input_bytes: Annotated[int, Ge(0)] = 64 * 2**10
    """Requests with more input bytes bypass the cache: to digest them costs more than it saves."""
    ttl_s: Annotated[float, Gt(0)] | None = None
    """How long a result is remembered; for ever unless set, since a model's file never changes its answers."""


@dataclass(frozen=True, slots=True)
class GrpcSettings:
    """The same protocol by gRPC, which needs the extra `grpc`."""

    socket: bool = False
    """Whether to listen on `grpc.sock` beside infer.sock."""
    tcp_host: str = "127.0.0.1"
    tcp_port: Port | None = None
    """Port on TCP; none unless set. 8001 is what Triton's clients expect."""


@dataclass(frozen=True, slots=True)
class SharedMemorySettings:
    """System shared memory that tensors are passed in."""

    enabled: bool = False
    max_regions: Annotated[int, Ge(1)] = 64
    """Regions that may be registered at a time; one user may have half of them."""


@dataclass(frozen=True, slots=True)
class SequenceSettings:
    """The states of streaming models that are kept between the requests of a sequence."""

    max_count: Annotated[int, Ge(1)] = 1024
    """Sequences of all models at a time; the one that was idle longest makes room."""
    max_bytes: Annotated[int, Ge(1024)] = 16 * 2**20
    idle_s: Annotated[float, Gt(0)] = 60.0
    """How long a sequence may be silent before it is forgotten."""


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Requests that are answered later (`Prefer: respond-async`)."""

    max_count: Annotated[int, Ge(1)] = 256
    """Tasks at a time, of which one user may have half; results that are oldest make room."""
    max_bytes: Annotated[int, Ge(1024)] = 32 * 2**20
    """Requests and results of all tasks together, of which one user may have half."""
    keep_s: Annotated[float, Gt(0)] = 300.0
    """How long a result is kept for its client."""


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """How much memory models may take."""

    budget_bytes: Annotated[int, Ge(0)] = 0
    """Memory that all models together may take, by what loading each has added to the process: before one more
    is loaded, idle ones are unloaded, least recently used first, and loaded again when they are asked for; 0
    sets no limit but what the system has."""
    wait_limit_s: Annotated[float, Gt(0)] = 30.0
    """How long a request without a `timeout` may wait for its model to be loaded; then 503 with Retry-After."""


@dataclass(frozen=True, slots=True)
class OutcomeSettings:
    """How outcomes of predictions are taken and kept."""

    window_s: Annotated[float, Ge(60)] = 7 * 86_400.0
    """How long after a prediction its outcome is taken."""
    commit_interval_s: Annotated[float, Ge(0.0), Le(60)] = 0.6
    """Outcomes of this time share one write to the disk; longer spares flash, shorter answers sooner."""


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """The link to the fleet's broker, by MQTT 5."""

    url: str | None = None
    """`mqtt://host[:1883]` or `mqtts://host[:8883]` (any port, 443 too); without one there is no link."""
    prefix: str = "edge/v1"
    fleet: str = "default"
    """A topic level: letters, digits, `-` and `_`."""
    username: str | None = None
    """The default is the device id, which is what the broker's access rules name."""
    password_file: str | None = None
    ca_bundle: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    keepalive_s: Annotated[int, Ge(5), Le(65535)] = 60
    will_delay_s: Annotated[int, Ge(0)] = 30
    """How long the broker waits before it tells that the device is offline."""
    session_expiry_s: Annotated[int, Ge(60)] = 86_400
    metrics_interval_s: Annotated[float, Ge(0.2)] = 60.0
    ab_interval_s: Annotated[float, Ge(0.2)] = 30.0


@dataclass(frozen=True, slots=True)
class MqttBinding:
    """Messages that match `filter` are inference requests to `model`, answered on `result`.

    A message's Response Topic (MQTT 5) is used instead of `result` where it is set.
    """

    filter: str
    model: str
    result: str


@dataclass(frozen=True, slots=True)
class LocalMqttSettings:
    """Inference over MQTT for apps on this device or its network, by MQTT 5 or 3.1.1."""

    url: str | None = None
    """The broker, which may be the fleet's; without one there is no inference over MQTT."""
    protocol: Literal["5", "3.1.1"] = "5"
    username: str | None = None
    password_file: str | None = None
    ca_bundle: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    topic: str = "edge-agent"
    """`<topic>/infer/<model>` is answered on `<topic>/result/<model>`, outcomes are taken on
    `<topic>/outcomes/<model>`."""
    bindings: tuple[MqttBinding, ...] = ()
    """Further topics, for apps that publish where they always did."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is written to the log."""

    level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; each section belongs to the part that it is named after."""

    device: DeviceSettings = DeviceSettings()
    paths: PathSettings = PathSettings()
    store: StoreSettings = StoreSettings()
    updates: UpdateSettings = UpdateSettings()
    http: HttpSettings = HttpSettings()
    engines: EngineSettings = EngineSettings()
    probe: ProbeSettings = ProbeSettings()
    supervisor: SupervisorSettings = SupervisorSettings()
    cache: CacheSettings = CacheSettings()
    outcomes: OutcomeSettings = OutcomeSettings()
    grpc: GrpcSettings = GrpcSettings()
    shared_memory: SharedMemorySettings = SharedMemorySettings()
    sequences: SequenceSettings = SequenceSettings()
    tasks: TaskSettings = TaskSettings()
    memory: MemorySettings = MemorySettings()
    mqtt: MqttSettings = MqttSettings()
    local_mqtt: LocalMqttSettings = LocalMqttSettings()
    log: LogSettings = LogSettings()
