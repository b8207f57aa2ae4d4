"""`edge-agent events`: what happened on this device."""

import argparse
from typing import Any

import msgspec

from edge_agent.cli.admin_client import call
from edge_agent.cli.offline import agent_is_down
from edge_agent.cli.options import positive
from edge_agent.cli.output import Output
from edge_agent.cli.report import event_lines, typed
from edge_agent.cli.sockets import add_socket, admin_socket
from edge_agent.documents.errors import UnavailableError
from edge_agent.documents.messages import Event
from edge_agent.store.events_db import read_newest

DESCRIPTION = (
    "Show what happened on this device: versions activated or refused, crashes, failed looks at the store."
)

EXAMPLES = """\
  edge-agent events
  edge-agent events -n 200
  edge-agent events --json | jq '.events[] | select(.type == "quarantined")'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument(
        "-n", dest="limit", type=positive, default=20, metavar="N", help="how many, newest (default: 20)"
    )
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the agent and print its answer."""
    output = Output(args.json)
    result = _asked(args)
    events = typed(result["events"], tuple[Event, ...])
    output.show(result, lambda: event_lines(events, output) if events else ["Nothing has happened yet."])
    return 0


def _asked(args: argparse.Namespace) -> Any:
    """Ask the agent, the disk where none runs."""
    try:
        return call(admin_socket(args), "events", {"limit": args.limit})
    except UnavailableError as error:
        with agent_is_down(args, error) as (layout, _):
            return {"agent": "down", "events": msgspec.to_builtins(read_newest(layout.events, args.limit))}
