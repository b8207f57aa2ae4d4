"""`refresh`, `verify`, `retire` and `gc`: what keeps a store in order."""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from edge_agent.documents.errors import RequestError
from edge_fleet import show
from edge_fleet.command_parser import add_command
from edge_fleet.commands.options import add_keys, now, open_keys, open_repository
from edge_fleet.garbage import DEFAULT_GRACE_DAYS, Collected, collect_garbage
from edge_fleet.refresh import Refreshed, refresh
from edge_fleet.retire import DEFAULT_KEEP, Retired, retire
from edge_fleet.verify import Verified, verify


def add_upkeep_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    _add_refresh(commands)
    _add_verify(commands)
    _add_retire(commands)
    _add_gc(commands)


def _add_refresh(commands: Any) -> None:
    example = """\
  edge-fleet refresh store --keys ~/fleet-keys
  edge-fleet refresh store --all --keys ~/offline-keys"""
    parser = add_command(commands, "refresh", _refresh, "sign metadata again before it expires", example)
    parser.add_argument(
        "--all", action="store_true", help="every role whose keys are in the folder, root and models too"
    )
    add_keys(parser)


def _add_verify(commands: Any) -> None:
    example = """\
  edge-fleet verify store
  edge-fleet verify s3://bucket/store --root /safe/root.json     from a root that is known to be good"""
    summary = "check every signature, digest and file of a store"
    parser = add_command(commands, "verify", _verify, summary, example)
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FILE",
        help="a root as devices have it, which the store must lead over (default: trust the store's first)",
    )


def _add_retire(commands: Any) -> None:
    example = """\
  edge-fleet retire store --keys ~/fleet-keys                    all models
  edge-fleet retire store digits --keep 10 --keys ~/fleet-keys"""
    summary = "stop signing old versions, but never one that is deployed"
    parser = add_command(commands, "retire", _retire, summary, example)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models to look through (default: all)")
    parser.add_argument(
        "--keep",
        type=int,
        default=DEFAULT_KEEP,
        metavar="N",
        help="newest versions to keep (default: %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be retired")
    add_keys(parser)


def _add_gc(commands: Any) -> None:
    example = "  edge-fleet gc store --grace-days 2"
    summary = "remove files that no device can need any more; needs no keys"
    parser = add_command(commands, "gc", _gc, summary, example)
    parser.add_argument(
        "--grace-days",
        type=float,
        default=DEFAULT_GRACE_DAYS,
        metavar="N",
        help="keep what was current so many days ago, for devices that are at it (default: %(default)g)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def _refresh(options: argparse.Namespace) -> Refreshed:
    return refresh(open_repository(options), open_keys(options), now(), options.all)


def _verify(options: argparse.Namespace) -> Verified:
    with ExitStack() as stack:

        def start(total_bytes: int) -> Callable[[int], None]:
            bar = show.progress("Reading blobs", total_bytes, visible=not options.json)
            return stack.enter_context(bar)

        return verify(open_repository(options), now(), options.root, start)


def _retire(options: argparse.Namespace) -> Retired:
    models = tuple(options.models)
    return retire(open_repository(options), open_keys(options), models, options.keep, now(), options.dry_run)


def _gc(options: argparse.Namespace) -> Collected:
    if not 0 <= options.grace_days <= 10_000:
        raise RequestError(f"--grace-days is {options.grace_days:g}: give a number of days from 0 on.")
    grace = timedelta(days=options.grace_days)
    return collect_garbage(open_repository(options), now(), grace, options.dry_run)
