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
    proxy: str | None = None
    ca_bundle: str | None = None
    bearer_token_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


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
    max_body_bytes: Annotated[int, Ge(1024)] = 64 * 2**20
    idle_timeout_s: Annotated[float, Gt(0)] = 75.0
    request_timeout_s: Annotated[float, Gt(0)] = 60.0
    """How long a client may take to send one request."""
    queue_limit: Annotated[int, Ge(1)] = 256
    """Requests of one model that may wait for its runtime; more get 503 with Retry-After."""


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
    memory_limit_bytes: Annotated[int, Ge(0)] = 0
    """Resident memory at which the probe is killed; 0 sets no limit."""


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
class LogSettings:
    """What is written to the log."""

    level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; each section belongs to the part that it is named after."""

    device: DeviceSettings = DeviceSettings()
    paths: PathSettings = PathSettings()
    store: StoreSettings = StoreSettings()
    http: HttpSettings = HttpSettings()
    engines: EngineSettings = EngineSettings()
    probe: ProbeSettings = ProbeSettings()
    supervisor: SupervisorSettings = SupervisorSettings()
    log: LogSettings = LogSettings()
