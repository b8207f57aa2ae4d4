"""`edge-agent gc`: remove the files that nothing on this device needs."""

import argparse
from typing import Any

from edge_agent.cli.admin_client import call
from edge_agent.cli.offline import agent_is_down, state_of
from edge_agent.cli.output import Output, size
from edge_agent.cli.sockets import add_socket, admin_socket
from edge_agent.control.housekeeping import needed, spare
from edge_agent.documents.errors import UnavailableError
from edge_agent.store.blobs import BlobStore

DESCRIPTION = """\
Remove the model files of versions that neither run, ran before, are fallen back to, nor are fetched to run
next, and downloads that nobody has gone on with for a week. The agent removes files by itself after each
activation. Where it does not run, this only says what could go."""

EXAMPLES = """\
  edge-agent gc --dry-run
  edge-agent gc
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the agent and print its answer; where there is none, look at the disk."""
    output = Output(args.json)
    try:
        result: Any = call(admin_socket(args), "gc", {"dry_run": args.dry_run}, timeout_s=None)
    except UnavailableError as error:
        result = _from_disk(args, error)
    output.show(result, lambda: [_sentence(result)])
    return 0


def _from_disk(args: argparse.Namespace, error: UnavailableError) -> dict[str, Any]:
    with agent_is_down(args, error) as (layout, now_s):
        found = spare(BlobStore(layout), needed(state_of(layout)), now_s)
    return {
        "agent": "down",
        "files": dict(found.files),
        "parts": dict(found.parts),
        "bytes": found.size_bytes,
        "removed": False,
    }


def _sentence(result: dict[str, Any]) -> str:
    if not result["files"] and not result["parts"]:
        return "Nothing can go: every file here is needed."
    what = f"{len(result['files'])} files and {len(result['parts'])} old downloads, {size(result['bytes'])}"
    if result["removed"]:
        return f"Removed {what}."
    suffix = "; the agent is not running, start it to have them removed" if "agent" in result else ""
    return f"Could go: {what}{suffix}."
