"""`edge-agent load`: serve a model again that was unloaded."""

import argparse

from edge_agent.cli.admin_client import call
from edge_agent.cli.output import Output
from edge_agent.cli.sockets import add_socket, admin_socket

DESCRIPTION = "Serve a model again that was unloaded, as the deployment has it."

EXAMPLES = """\
  edge-agent load magika
  edge-agent load magika --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the agent and print its answer."""
    return change(args, "load")


def change(args: argparse.Namespace, verb: str) -> int:
    """Ask the agent to load or unload the model, and print its answer."""
    result = call(admin_socket(args), verb, {"model": args.model}, timeout_s=None)
    Output(args.json).show(result, lambda: [result["message"]])
    return 0
