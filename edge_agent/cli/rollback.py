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
  edge-agent rollback --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the agent and print its answer."""
    result = call(admin_socket(args), "rollback", timeout_s=None)
    Output(args.json).show(result, lambda: [result["message"]])
    return 0
