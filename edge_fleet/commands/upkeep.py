"""`refresh`: what keeps a store in order."""

import argparse
from typing import Any

from edge_fleet.command_parser import add_command
from edge_fleet.commands.options import add_keys, now, open_keys, open_repository
from edge_fleet.refresh import Refreshed, refresh


def add_upkeep_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    _add_refresh(commands)


def _add_refresh(commands: Any) -> None:
    example = "  edge-fleet refresh store --keys ~/fleet-keys"
    parser = add_command(commands, "refresh", _refresh, "sign metadata again before it expires", example)
    parser.add_argument("--all", action="store_true", help="every role, with the keys of root and models too")
    add_keys(parser)


def _refresh(options: argparse.Namespace) -> Refreshed:
    return refresh(open_repository(options), open_keys(options), now(), options.all)
