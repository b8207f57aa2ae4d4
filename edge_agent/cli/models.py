"""`edge-agent models`: the versions on this device."""

import argparse
from typing import Any

import msgspec

from edge_agent.cli.admin_client import call
from edge_agent.cli.offline import agent_is_down, reported, state_of
from edge_agent.cli.output import Output
from edge_agent.cli.report import typed, version_lines
from edge_agent.cli.sockets import add_socket, admin_socket
from edge_agent.documents.errors import UnavailableError
from edge_agent.documents.messages import VersionReport

DESCRIPTION = """\
List the versions on this device: which are served, to what share of requests, how long a run took and how much
memory was needed when it was tried here, and why others are not served."""

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
    result = _asked(args)
    output.show(result, lambda: version_lines(typed(result["versions"], tuple[VersionReport, ...]), output))
    return 0


def _asked(args: argparse.Namespace) -> Any:
    """Ask the agent, the disk where none runs."""
    try:
        return call(admin_socket(args), "models")
    except UnavailableError as error:
        with agent_is_down(args, error) as (layout, _):
            return {"agent": "down", "versions": msgspec.to_builtins(reported(args, state_of(layout)).versions)}
