"""Finds the sockets of the agent that the caller means."""

import argparse
import os
from pathlib import Path

from edge_agent.cli.options import add_config, load_settings
from edge_agent.documents.errors import SettingsError
from edge_agent.documents.places import APPLICATION, this_process_places, user_runtime_folder
from edge_agent.store.layout import RuntimeLayout

SERVICE = Path("/run") / APPLICATION


def add_socket(parser: argparse.ArgumentParser) -> None:
    """Let the caller name the agent, by its socket or by its settings."""
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="the agent's socket (default: found by the settings)"
    )
    add_config(parser)


def admin_socket(args: argparse.Namespace) -> Path:
    """Return the path of the admin socket that the caller means."""
    return args.socket if args.socket is not None else RuntimeLayout(runtime_folder(args)).admin_socket


def infer_socket(args: argparse.Namespace) -> Path:
    """Return the path of the inference socket that the caller means."""
    return args.socket if args.socket is not None else RuntimeLayout(runtime_folder(args)).infer_socket


def runtime_folder(args: argparse.Namespace) -> Path:
    """Return the runtime folder of the agent that the caller means.

    The one that the settings name; where nothing is there, the system's service, or the one model server that
    `edge-agent serve` runs for this user. Broken settings do not keep an operator from a running agent.
    """
    try:
        own = Path(load_settings(args).settings.paths.runtime)
    except SettingsError:
        if args.config is not None:
            raise
        own = this_process_places().runtime
    candidates = [own, SERVICE]
    served = [folder for folder in served_folders() if _is_live(folder)]
    if len(served) == 1:
        candidates += served
    return next((folder for folder in candidates if RuntimeLayout(folder).admin_socket.exists()), own)


def serve_base() -> Path:
    """Return the folder in which each `edge-agent serve` of this user has one, named after its process id."""
    return user_runtime_folder(os.environ) / f"{APPLICATION}-serve"


def served_folders() -> list[Path]:
    """Return the folders that `edge-agent serve` made for this user, of ended processes too."""
    try:
        return [path for path in serve_base().iterdir() if path.name.isdecimal()]
    except OSError:
        return []


def _is_live(folder: Path) -> bool:
    return process_exists(int(folder.name))


def process_exists(pid: int) -> bool:
    """Say whether a process has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
