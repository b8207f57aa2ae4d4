"""`rotate`, `sign` and `apply`: other keys for a role, at once or in steps on separate machines."""

import argparse
import sys
from pathlib import Path
from typing import Any

from edge_agent.documents.errors import RequestError
from edge_fleet import show_keys
from edge_fleet.command_parser import add_command
from edge_fleet.commands.options import add_keys, now, open_keys, open_repository
from edge_fleet.keys import KEY_TYPES
from edge_fleet.repository import Contents
from edge_fleet.rotate import (
    Proposed,
    Rotated,
    apply,
    check_in_root,
    describe,
    propose,
    replacement,
    rotate,
    rotate_to_new_key,
)
from edge_fleet.trust.proposal import Change, Proposal
from edge_fleet.trust.signers import TrustedRole, load_signers, read_public


def add_ceremony_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    _add_rotate(commands)
    _add_sign(commands)
    _add_apply(commands)


def _add_rotate(commands: Any) -> None:
    example = """\
  edge-fleet rotate store m-digits --new-key --keys ~/fleet-keys               a model's key, at once
  edge-fleet rotate store root --add bob.pub.pem --threshold 2 --proposal root.proposal
  edge-fleet sign root.proposal --keys ~/my-key                                on each machine that has a key
  edge-fleet apply store root.proposal --keys ~/fleet-keys"""
    parser = add_command(commands, "rotate", _rotate, "give a role other keys", example)
    parser.add_argument(
        "role", metavar="ROLE", help="root, targets, snapshot, timestamp, deployments or m-<model>"
    )
    parser.add_argument(
        "--add", type=Path, action="append", default=[], metavar="PEM", help="trust this public key as well"
    )
    parser.add_argument(
        "--remove",
        action="append",
        default=[],
        metavar="KEYID",
        help="trust this key no longer; its beginning is enough",
    )
    parser.add_argument("--threshold", type=int, metavar="N", help="how many of the keys must sign")
    parser.add_argument(
        "--new-key",
        nargs="?",
        const="ed25519",
        choices=KEY_TYPES,
        help="make a key in KEYS that takes the place of all that the role has",
    )
    parser.add_argument("--renew", action="store_true", help="change nothing: a new root that expires later")
    parser.add_argument(
        "--proposal",
        type=Path,
        metavar="FILE",
        help="write the next root there, to be signed in steps, and stop",
    )
    add_keys(parser, creates=True)


def _add_sign(commands: Any) -> None:
    example = "  edge-fleet sign root.proposal --root ~/my-copy/root.json --keys ~/my-key"
    parser = add_command(
        commands, "sign", _sign, "sign a proposed root; needs no store and no network", example, store=False
    )
    parser.add_argument(
        "proposal", type=Path, metavar="PROPOSAL", help="the file; the signatures are added to it"
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FILE",
        help="root.json of the store, from who you trust: sign what follows it",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask, on a terminal")
    add_keys(parser)


def _add_apply(commands: Any) -> None:
    example = "  edge-fleet apply store root.proposal --keys ~/fleet-keys"
    parser = add_command(commands, "apply", _apply, "publish a root that all have signed", example)
    parser.add_argument(
        "proposals",
        type=Path,
        nargs="+",
        metavar="PROPOSAL",
        help="the file, or its copies that were signed apart",
    )
    add_keys(parser)


def _rotate(options: argparse.Namespace) -> Proposed | Rotated:
    _check_rotate(options)
    repository = open_repository(options)
    if options.proposal is not None:
        return _propose(options, repository.read())
    if options.new_key is not None:
        return rotate_to_new_key(repository, open_keys(options), options.role, options.new_key, now())
    return rotate(repository, open_keys(options), options.role, _change(options), now())


def _check_rotate(options: argparse.Namespace) -> None:
    change = options.add or options.remove or options.threshold is not None
    if options.new_key is not None and change:
        raise RequestError("--new-key takes the place of all keys: leave --add, --remove and --threshold out.")
    if options.new_key is None and not change and not options.renew:
        raise RequestError("Nothing to change: give --new-key, --add, --remove or --threshold, or --renew.")


def _propose(options: argparse.Namespace, contents: Contents) -> Proposed:
    check_in_root(options.role)
    if options.proposal.exists():
        raise RequestError(f"{options.proposal} is there already: give another name to the new proposal.")
    if not options.proposal.parent.is_dir():
        raise RequestError(
            f"{options.proposal.parent} is no folder: make it, or name another for the proposal."
        )
    if options.new_key is None:
        change = _change(options)
    else:
        change = replacement(open_keys(options), contents, options.role, options.new_key)
    proposal = propose(contents, options.role, change, now())
    proposal.write(options.proposal)
    return describe(proposal, str(options.proposal))


def _change(options: argparse.Namespace) -> Change:
    return Change(tuple(map(read_public, options.add)), tuple(options.remove), options.threshold)


def _sign(options: argparse.Namespace) -> Proposed:
    proposal = Proposal.read(options.proposal)
    if options.root is not None:
        proposal.check_follows(options.root)
    if sys.stdin.isatty() and not options.yes:
        show_keys.explain(describe(proposal, str(options.proposal)))
        if not _agreed("Sign this? [y/N] "):
            raise RequestError("Nothing was signed.")
    # One signature is what each of several people gives.
    counting = TrustedRole(proposal.either.keyids, threshold=1)
    proposal.sign(load_signers(open_keys(options), "root", counting))
    proposal.write(options.proposal)
    return describe(proposal, str(options.proposal))


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        sys.stderr.write("\n")  # behind the question
        return False


def _apply(options: argparse.Namespace) -> Rotated:
    first, *others = map(Proposal.read, options.proposals)
    for other in others:
        first.merge(other)
    return apply(open_repository(options), first, open_keys(options), now())
