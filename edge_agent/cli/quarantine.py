"""`edge-agent quarantine`: what shall not run on this device."""

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from edge_agent.cli.admin_client import call
from edge_agent.cli.offline import agent_is_down, state_of
from edge_agent.cli.output import Output, duration, table
from edge_agent.cli.report import typed
from edge_agent.cli.sockets import add_socket, admin_socket
from edge_agent.control.reporter import quarantined
from edge_agent.documents.errors import UnavailableError
from edge_agent.documents.messages import QuarantineReport

DESCRIPTION = """\
Show which versions shall not run on this device, since when and why; add one, or release some. A version in
quarantine is not tried again until its file changes in the store or it is released; what served before it
serves on. 'release' has what is deployed tried again at once."""

EXAMPLES = """\
  edge-agent quarantine
  edge-agent quarantine add magika 20261125_101500 --reason "wrong labels"
  edge-agent quarantine release magika 20261125_101500 --reason "the driver is repaired"
  edge-agent quarantine release --all
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "add", "release"),
        default="list",
        help="what to do (default: list)",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="name of the model")
    parser.add_argument("version", nargs="?", metavar="VERSION", help="its version")
    parser.add_argument("--all", action="store_true", help="release everything, instead of one version")
    parser.add_argument("--reason", metavar="TEXT", help="why, for the events")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the agent and print its answer."""
    output = Output(args.json)
    if args.action == "list":
        result = _listed(args)
        entries = typed(result["quarantine"], tuple[QuarantineReport, ...])
        output.show(result, lambda: lines(entries, output, time.time()))
        return 0
    _check(args)
    arguments = {"model": args.model, "version": args.version, "reason": args.reason}
    given = {name: value for name, value in arguments.items() if value is not None}
    result = call(admin_socket(args), f"quarantine_{args.action}", given)
    output.show(result, lambda: [result["message"]])
    return 0


def lines(entries: Sequence[QuarantineReport], output: Output, now_s: float) -> Iterator[str]:
    """Yield the quarantine for a person."""
    if not entries:
        yield "Nothing is in quarantine."
        return
    rows = [
        (entry.model, entry.version, duration(now_s - entry.time_s), entry.actor, entry.reason)
        for entry in entries
    ]
    head, *body = table(("MODEL", "VERSION", "SINCE", "BY", "WHY"), rows)
    yield output.style(head, "bold")
    yield from body


def _check(args: argparse.Namespace) -> None:
    named = args.model is not None and args.version is not None
    if args.action == "add" and (not named or args.all):
        args.parser.error("'add' needs MODEL and VERSION")
    if args.action == "release" and not (args.model is None if args.all else named):
        args.parser.error("'release' needs MODEL and VERSION, or --all without them")


def _listed(args: argparse.Namespace) -> Any:
    try:
        return call(admin_socket(args), "quarantine")
    except UnavailableError as error:
        with agent_is_down(args, error) as (layout, _):
            return {"agent": "down", "quarantine": msgspec.to_builtins(quarantined(state_of(layout)))}
