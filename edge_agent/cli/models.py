"""`edge-agent models`: the versions on this device."""

import argparse

from edge_agent.cli.admin_client import call
from edge_agent.cli.output import Output
from edge_agent.cli.report import typed, version_lines
from edge_agent.cli.sockets import add_socket, admin_socket
from edge_agent.documents.messages import VersionReport

DESCRIPTION = (
    "List the versions on this device: which are served, to what share of requests, and why others are not."
)

EXAMPLES = """\
  edge-agent models
  edge-agent models --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the agent and print its answer."""
    output = Output(args.json)
    result = call(admin_socket(args), "models")
    output.show(result, lambda: version_lines(typed(result["versions"], tuple[VersionReport, ...]), output))
    return 0
