"""`edge-agent unload`: serve a model no more, for now."""

import argparse

from edge_agent.cli.load import change, configure

__all__ = ["DESCRIPTION", "EXAMPLES", "configure", "run"]

DESCRIPTION = """\
Serve a model no more, which gives its memory back, until it is loaded again or the agent starts. What is
deployed to the device stays as it is."""

EXAMPLES = """\
  edge-agent unload magika
  edge-agent load magika
"""


def run(args: argparse.Namespace) -> int:
    """Ask the agent and print its answer."""
    return change(args, "unload")
