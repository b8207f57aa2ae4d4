"""`edge-agent rollback`: go back to what ran before."""

import argparse

from edge_agent.cli.admin_client import call
from edge_agent.cli.output import Output
from edge_agent.cli.sockets import add_socket, admin_socket

DESCRIPTION = """\
Serve again what was served before the last activation. The agent stays with it until the store offers a newer
serial than the one that was left."""

EXAMPLES = """\
  edge-agent rollback
  edge-agent rollback --reason "doubles are counted"
  edge-agent rollback --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for the events")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the agent and print its answer."""
    result = call(admin_socket(args), "rollback", {"reason": args.reason}, timeout_s=None)
    Output(args.json).show(result, lambda: [result["message"]])
    return 0
