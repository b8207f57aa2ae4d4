"""`edge-agent sync`: look at the store now instead of at the next poll."""

import argparse
from pathlib import Path
from typing import Any

from edge_agent.cli.admin_client import call
from edge_agent.cli.output import Output, Progress
from edge_agent.cli.sockets import add_socket, admin_socket

DESCRIPTION = """\
Let the agent look at the store now, and wait until what it found is served, refused, or nothing was new. The
running versions are left alone unless a new one passes every check."""

EXAMPLES = """\
  edge-agent sync
  edge-agent sync --no-wait
  edge-agent sync --now
  edge-agent sync --from /media/usb/store
"""

_GOOD = ("unchanged", "activated", "started", "waiting")


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("--no-wait", action="store_true", help="return once the agent has begun")
    parser.add_argument(
        "--force", action="store_true", help="look closely even if nothing seems new, and try again what waits"
    )
    parser.add_argument(
        "--now", action="store_true", help="wait for no maintenance window and spend over the byte budget"
    )
    parser.add_argument(
        "--from",
        dest="folder",
        type=Path,
        metavar="FOLDER",
        help="take the signed store from this folder, for example a USB stick, instead of the URL",
    )
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the agent, show how far it is, and print what came of it; 1 if nothing good did."""
    progress = Progress(is_wanted=not args.json)
    arguments: dict[str, Any] = {
        "wait": not args.no_wait,
        "force": args.force,
        "now": args.now,
        "folder": str(args.folder.absolute()) if args.folder else None,
    }
    try:
        result = call(
            admin_socket(args),
            "sync",
            arguments,
            on_progress=lambda step: progress.update(step.message, step.done_bytes, step.total_bytes),
            timeout_s=None,
        )
    finally:
        progress.end()
    output = Output(args.json)
    is_good = result["status"] in _GOOD
    output.show(result, lambda: [output.style(result["message"], "green" if is_good else "red")])
    return 0 if is_good else 1
