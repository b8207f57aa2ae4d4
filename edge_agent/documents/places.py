"""Where things are by default: settings, state and sockets, for a service, for root and for a user.

Without pydantic, so that clients of the agent can find its sockets cheaply.
"""

import hashlib
import os
import re
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

APPLICATION = "edge-agent"
MAX_SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket: sun_path has 108 bytes with the final NUL (unix(7))."""
MACHINE_ID = Path("/etc/machine-id")

_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
_SALT = b"edge-agent device id"


@dataclass(frozen=True, slots=True)
class Places:
    """The default places of one host, as this process sees it."""

    config: Path
    """The settings file."""
    state: Path
    """The state folder."""
    runtime: Path
    """The folder of the sockets."""


def default_places(environ: Mapping[str, str], is_root: bool) -> Places:
    """Return the default places: those that systemd names, else the system's for root, else the user's.

    systemd sets `CONFIGURATION_DIRECTORY`, `STATE_DIRECTORY` and `RUNTIME_DIRECTORY` for a service that asks
    for such folders (systemd.exec(5)); each may hold several, separated by colons.
    """
    config = _from_systemd(environ, "CONFIGURATION_DIRECTORY")
    state = _from_systemd(environ, "STATE_DIRECTORY")
    runtime = _from_systemd(environ, "RUNTIME_DIRECTORY")
    if is_root:
        return Places(
            (config or Path("/etc") / APPLICATION) / "config.toml",
            state or Path("/var/lib") / APPLICATION,
            runtime or Path("/run") / APPLICATION,
        )
    return Places(
        (config or platformdirs.user_config_path(APPLICATION)) / "config.toml",
        state or platformdirs.user_state_path(APPLICATION),
        runtime or user_runtime_folder(environ) / APPLICATION,
    )


def this_process_places() -> Places:
    """Return the default places for the user and the environment of this process."""
    return default_places(os.environ, os.geteuid() == 0)


def user_runtime_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder for a user's sockets: XDG_RUNTIME_DIR or what stands in for it.

    That is /run/user/<uid>; for root /run itself; else a folder in the temporary one.
    """
    uid = os.geteuid()
    for folder in (environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}", "/run"):
        if folder and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    return Path(tempfile.gettempdir()) / f"runtime-{uid}"


def default_device_id(machine_id_file: Path = MACHINE_ID) -> str:
    """Return 16 hex digits derived from the machine id, or the host's name where there is none.

    The machine id itself is confidential (machine-id(5)), so that it is hashed with a salt of our own.
    """
    try:
        machine_id = machine_id_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        machine_id = ""
    if _MACHINE_ID.fullmatch(machine_id):
        return hashlib.sha256(_SALT + machine_id.encode()).hexdigest()[:16]
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "unnamed"


def _from_systemd(environ: Mapping[str, str], name: str) -> Path | None:
    first = environ.get(name, "").split(":")[0]
    return Path(first) if first else None
