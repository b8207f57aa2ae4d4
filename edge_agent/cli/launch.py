"""Becomes the agent: hands over the settings in a file in memory and executes it in this process's place."""

import fcntl
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import msgspec

from edge_agent.documents.errors import OperatorError, SettingsError
from edge_agent.documents.ipc import Launch
from edge_agent.documents.places import MAX_SOCKET_PATH_BYTES
from edge_agent.store.layout import RuntimeLayout

AGENT = "edge_agent.control.agent"


def execute(launch: Launch) -> NoReturn:
    """Replace this process by the agent; the process id stays, and so do systemd's sockets and their names.

    Raises OperatorError where the runtime folder cannot be made or is not safe.
    """
    prepare_runtime_folder(Path(launch.settings.paths.runtime))
    descriptor = launch_file(launch)
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: without it, -m would let a module in the working directory stand in for one of ours.
    command = [sys.executable, "-P", "-m", AGENT, "--launch-fd", str(descriptor)]
    os.execv(sys.executable, command)  # noqa: S606


def launch_file(launch: Launch) -> int:
    """Return the descriptor of an inheritable file in memory that holds the document."""
    descriptor = os.memfd_create("edge-agent-launch", 0)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(msgspec.json.encode(launch))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def prepare_runtime_folder(folder: Path) -> None:
    """Make the folder of the sockets: open to all for root's service, to its user alone otherwise.

    Raises SettingsError when its path is too long for a socket, or when it belongs to somebody else, who could
    put other sockets there.
    """
    longest = len(os.fsencode(RuntimeLayout(folder).admin_socket))
    if longest > MAX_SOCKET_PATH_BYTES:
        raise SettingsError(
            f"The runtime folder {folder} makes a socket path of {longest} bytes, and Linux allows "
            f"{MAX_SOCKET_PATH_BYTES}; choose a shorter one."
        )
    is_root = os.geteuid() == 0
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for path in reversed(missing):
            path.mkdir(mode=0o755 if is_root else 0o700, exist_ok=True)
        owners = {path.stat().st_uid for path in _exposed(folder)}
    except OSError as error:
        raise OperatorError(
            f"Cannot make the runtime folder {folder}: {error.strerror}; set paths.runtime to a folder that "
            "this user may write."
        ) from error
    if not owners <= {0, os.geteuid()}:
        raise SettingsError(
            f"The runtime folder {folder} belongs to another user, who could replace the sockets in it; set "
            "paths.runtime to a folder of your own."
        )


def _exposed(folder: Path) -> list[Path]:
    """Return what somebody else could have made first: all below the temporary folder, where anybody may.

    Elsewhere it is the folder alone, and for root nothing: root may run the agent on its service user's folder.
    """
    temporary = Path(tempfile.gettempdir())
    if folder.is_relative_to(temporary):
        return [
            path for path in (folder, *folder.parents) if path.is_relative_to(temporary) and path != temporary
        ]
    return [] if os.geteuid() == 0 else [folder]


def lock_holder(path: Path) -> str | None:
    """Return the process id of the agent that holds a state folder's lock, or None if none does."""
    try:
        with path.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "unknown"
    except OSError:
        return None
    return None
