"""What `edge-agent doctor` looks at: each check returns findings, each with what to do."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

from edge_agent import __version__
from edge_agent.cli.admin_client import call
from edge_agent.cli.launch import lock_holder
from edge_agent.cli.output import duration, size
from edge_agent.cli.runtime_trial import RUNTIMES
from edge_agent.control.children import signal_name
from edge_agent.control.fetch import open_store
from edge_agent.documents.errors import EdgeAgentError, SettingsError, UnavailableError
from edge_agent.documents.settings import GrpcSettings, Settings
from edge_agent.store.layout import RuntimeLayout, StateLayout

Outcome = Literal["ok", "warn", "fail"]

LOW_DISK_BYTES: Final = 500 * 2**20
FULL_DISK_BYTES: Final = 50 * 2**20
TRIAL_TIMEOUT_S: Final = 60.0
STORE_TIMEOUT_S: Final = 10.0
SOON_S: Final = 30 * 86400.0
_MAX_TIMESTAMP_BYTES: Final = 16384


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, how it is, and what to do unless it is ok."""

    check: str
    outcome: Outcome
    message: str


def software() -> Iterator[Finding]:
    """Python, this package and numpy."""
    versions = [f"{name} {version}" for name in ("numpy", "tuf", "pydantic") if (version := installed(name))]
    yield Finding(
        "software",
        "ok",
        f"edge-agent {__version__}, Python {platform.python_version()} on {platform.machine()}, "
        f"{', '.join(versions)}",
    )


def runtimes() -> Iterator[Finding]:
    """Whether each installed runtime really computes: a child runs a tiny model on it."""
    names = [name for name in RUNTIMES if installed(name)]
    for name in names:
        yield try_runtime(name)
    if not names:
        yield Finding(
            "runtime",
            "fail",
            "No runtime is installed; install one: pip install 'edge-inference-agent[onnx]' or "
            "'edge-inference-agent[tflite]'.",
        )
    if {"ai-edge-litert", "tflite-runtime"} <= set(names):
        yield Finding(
            "runtime",
            "warn",
            "ai-edge-litert and tflite-runtime are both installed, and ai-edge-litert is used unless "
            "engines.tflite_runtime says otherwise; uninstall tflite-runtime if nothing else needs it.",
        )


def grpc(settings: GrpcSettings) -> Iterator[Finding]:
    """Whether gRPC can be served, where it is set."""
    if not settings.socket and settings.tcp_port is None:
        return
    found = [f"{name} {version}" for name in ("grpcio", "protobuf") if (version := installed(name))]
    if len(found) == 2:
        yield Finding("grpc", "ok", f"{' and '.join(found)} are installed")
        return
    yield Finding(
        "grpc",
        "fail",
        "gRPC is set, and its packages are missing: pip install 'edge-inference-agent[grpc]', or leave "
        "grpc out of the settings.",
    )


def try_runtime(name: str) -> Finding:
    """Run the tiny model on one runtime in a child."""
    command = [sys.executable, "-P", "-m", "edge_agent.cli.runtime_trial", name]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return Finding("runtime", "fail", f"{name} hangs on a tiny model; install it again.")
    said = child.stdout.strip()
    if child.returncode == 0:
        return Finding("runtime", "ok", f"{said} computes")
    if child.returncode < 0:
        cause = signal_name(-child.returncode)
        return Finding("runtime", "fail", f"{name} crashes with {cause}; install a build for this processor.")
    numpy = installed("numpy") or "0"
    if name == "tflite-runtime" and int(numpy.split(".")[0]) >= 2:
        said = f"tflite-runtime does not run with numpy {numpy}: pip install 'numpy<2', or use ai-edge-litert."
        is_spare = installed("ai-edge-litert") is not None
        return Finding("runtime", "warn" if is_spare else "fail", said)
    return Finding("runtime", "fail", said or f"{name} does not run: {_last_line(child.stderr)}")


def state_folder(layout: StateLayout) -> Iterator[Finding]:
    """Whether the agent can keep its files, and who holds the folder."""
    base = layout.base
    existing = next(path for path in (base, *base.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(
            "state",
            "warn",
            f"{existing} is not writable for this user; look as the user that the agent runs as, or set "
            "paths.state.",
        )
        return
    yield Finding("state", "ok", f"{base} {'is writable' if base.exists() else 'can be made'}")
    if (holder := lock_holder(layout.lock)) is not None:
        yield Finding("state", "ok", f"{base} is held by the agent with process id {holder}")


def disk(layout: StateLayout) -> Finding:
    """Whether new versions have room."""
    existing = next(path for path in (layout.base, *layout.base.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < LOW_DISK_BYTES:
        outcome: Outcome = "fail" if free < FULL_DISK_BYTES else "warn"
        return Finding("disk", outcome, f"Only {size(free)} are free below {existing}; free some space.")
    return Finding("disk", "ok", f"{size(free)} free below {existing}")


def clock(now_s: float) -> Finding:
    """Whether the clock is after this program was installed; expired metadata cannot be told without."""
    installed_s = Path(__file__).stat().st_mtime
    if now_s < installed_s:
        return Finding(
            "clock",
            "fail",
            f"The clock says {datetime.fromtimestamp(now_s, UTC):%Y-%m-%d %H:%M} UTC, before this program was "
            "installed; set it, or start a time service.",
        )
    return Finding("clock", "ok", f"{datetime.fromtimestamp(now_s, UTC):%Y-%m-%d %H:%M} UTC")


def trusted_root(settings: Settings, layout: StateLayout, now_s: float) -> Finding:
    """Whether there is a root to trust, and how long it lasts; a newer one may have come with a sync."""
    if settings.store.root is None:
        if settings.store.url is None:
            return Finding("trust", "ok", "no store is set, so no root is needed")
        return Finding(
            "trust",
            "fail",
            "No trusted root is set; copy the store's root.json here and set store.root to its path.",
        )
    path = Path(settings.store.root)
    expires_s = root_expiry_s(path)
    if expires_s is None:
        return Finding(
            "trust", "fail", f"{path} is no readable TUF root; copy the store's root.json there again."
        )
    newest_s = max(expires_s, root_expiry_s(layout.trust / "current" / "root.json") or 0.0)
    if newest_s < now_s:
        return Finding(
            "trust",
            "warn",
            f"The trusted root expired {duration(now_s - newest_s)} ago; updates stop unless the store has "
            "a newer one.",
        )
    outcome: Outcome = "warn" if newest_s - now_s < SOON_S else "ok"
    return Finding("trust", outcome, f"{path}, good for {duration(newest_s - now_s)} more")


def root_expiry_s(path: Path) -> float | None:
    """Return when a TUF root expires, Unix time, or None if the file is none."""
    try:
        signed = json.loads(path.read_bytes())["signed"]
        if signed["_type"] != "root":
            return None
        return datetime.fromisoformat(signed["expires"]).timestamp()
    except (OSError, ValueError, TypeError, LookupError):
        return None


def store(settings: Settings) -> Finding:
    """Whether the store answers with its timestamp, not with the login page of a network."""
    if settings.store.url is None:
        return Finding(
            "store", "warn", "No store is set; the agent serves what it has. Set store.url and store.root."
        )
    try:
        connection = open_store(settings.store)
        try:
            content = connection.get("metadata/timestamp.json", _MAX_TIMESTAMP_BYTES)
        finally:
            connection.close()
    except EdgeAgentError as error:
        return Finding("store", "fail", str(error))
    if not is_timestamp(content):
        return Finding(
            "store",
            "fail",
            "Something other than the store answers at store.url, perhaps a network's login page or a proxy; "
            "check the URL and the network.",
        )
    return Finding("store", "ok", "the store answers")


def is_timestamp(content: bytes) -> bool:
    """Say whether the content looks like TUF's timestamp metadata; nothing is trusted here."""
    try:
        return bool(json.loads(content)["signed"]["_type"] == "timestamp")
    except (ValueError, TypeError, LookupError):
        return False


def agent(runtime: RuntimeLayout) -> Iterator[Finding]:
    """Whether a running agent answers, and what it says is wrong."""
    try:
        status: dict[str, Any] = call(runtime.admin_socket, "status", timeout_s=STORE_TIMEOUT_S)
    except UnavailableError as error:
        yield Finding("agent", "fail" if runtime.admin_socket.exists() else "warn", str(error))
        return
    except EdgeAgentError as error:
        yield Finding("agent", "warn", str(error))
        return
    yield Finding("agent", "ok", f"process {status['process']['pid']} answers")
    for problem in status["reported"]["problems"]:
        yield Finding("agent", "warn", problem)


def settings_problems(error: SettingsError) -> Iterator[Finding]:
    """Return each problem of broken settings."""
    for line in str(error).splitlines():
        yield Finding("settings", "fail", line)


def installed(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
