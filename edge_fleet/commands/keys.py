"""`keys`: makes, lists, locks and exports the keys of a folder; no store is needed."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.documents.errors import RequestError
from edge_agent.store.files import write_atomically
from edge_fleet.command_parser import add_command
from edge_fleet.commands.options import add_keys, open_keys, open_repository
from edge_fleet.key_list import KeyList, list_keys
from edge_fleet.keys import KEY_TYPES, save_key
from edge_fleet.passphrases import ask_new, read_passphrase
from edge_fleet.trust.signers import add_uri, public_pem_of, read_key, read_public

NEW_PASSPHRASE_VARIABLE = "EDGE_FLEET_NEW_PASSPHRASE"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, slots=True)
class KeyMade:
    """A key that was made, or that can be reached now."""

    file: str
    keyid: str
    type: str


@dataclass(frozen=True, slots=True)
class Exported:
    """The public part of a key."""

    keyid: str
    pem: str
    file: str | None
    """Where it was written; None if it was only printed."""


@dataclass(frozen=True, slots=True)
class Relocked:
    """Keys with another passphrase."""

    files: tuple[str, ...]
    encrypted: bool


def add_key_commands(commands: Any) -> None:
    """Add the command and its own commands to the parser."""
    parser = commands.add_parser(
        "keys",
        help="make, list, lock and export keys",
        description="Make, list, lock and export keys.",
        epilog="Each has examples: edge-fleet keys create --help. The guide is docs/fleet-store.md.",
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_create(actions)
    _add_list(actions)
    _add_passphrase(actions)
    _add_export(actions)
    _add_use(actions)


def _add_create(actions: Any) -> None:
    example = """\
  edge-fleet keys create root.alice --keys ~/my-key          for a ceremony, on a machine of her own
  edge-fleet keys create m-digits --type ecdsa --keys ~/fleet-keys"""
    parser = add_command(actions, "create", _create, "make a key", example, store=False)
    parser.add_argument(
        "name", metavar="NAME", help="its role: root, m-<model>, …; or ROLE.LABEL, beside another"
    )
    parser.add_argument("--type", choices=KEY_TYPES, default="ed25519", help="default: %(default)s")
    add_keys(parser, creates=True)


def _add_list(actions: Any) -> None:
    example = "  edge-fleet keys list --keys ~/fleet-keys --store s3://bucket/store"
    parser = add_command(actions, "list", _list, "show the keys of a folder", example, store=False)
    parser.add_argument("--store", metavar="STORE", help="show which roles of this store trust each key")
    add_keys(parser)


def _add_passphrase(actions: Any) -> None:
    example = """\
  edge-fleet keys passphrase --keys ~/fleet-keys                       all keys of the folder
  edge-fleet keys passphrase root --keys ~/fleet-keys --new-passphrase-file new.txt"""
    parser = add_command(
        actions, "passphrase", _passphrase, "encrypt keys with another passphrase", example, store=False
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="keys to encrypt anew (default: all)")
    new = parser.add_mutually_exclusive_group()
    new.add_argument(
        "--new-passphrase-file",
        type=Path,
        metavar="FILE",
        help=f"file whose first line is the new one (or ${NEW_PASSPHRASE_VARIABLE}, or a terminal)",
    )
    new.add_argument(
        "--unencrypted",
        dest="decrypt",
        action="store_true",
        help="write these keys again without any passphrase, for a disk that is one's own",
    )
    add_keys(parser)


def _add_export(actions: Any) -> None:
    example = "  edge-fleet keys export root.alice --out alice.pub.pem --keys ~/my-key"
    parser = add_command(actions, "export", _export, "print the public part of a key", example, store=False)
    parser.add_argument("name", metavar="NAME", help="the key's file name without its ending")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it there; nothing is overwritten")
    add_keys(parser)


def _add_use(actions: Any) -> None:
    example = """\
  edge-fleet keys use root 'hsm:2?label=fleet' --public root.pub.pem --keys ~/fleet-keys
  edge-fleet keys use targets awskms:alias/fleet-targets --public targets.pub.pem --keys ~/fleet-keys"""
    summary = "reach a key by a URI, on a token or at a cloud's key service"
    parser = add_command(actions, "use", _use, summary, example, store=False)
    parser.add_argument("name", metavar="NAME", help="its role, or ROLE.LABEL")
    parser.add_argument(
        "uri",
        metavar="URI",
        help="as securesystemslib has them: hsm:, awskms:, gcpkms:, azurekms:, hv:, file2:",
    )
    parser.add_argument(
        "--public",
        type=Path,
        required=True,
        metavar="PEM",
        help="its public key, as the token or service gives it",
    )
    add_keys(parser)


def _create(options: argparse.Namespace) -> KeyMade:
    keys = open_keys(options)
    keys.create(options.name, options.type)
    public = read_key(keys, options.name)
    return KeyMade(str(keys.path / f"{options.name}.pem"), public.keyid, public.keytype)


def _list(options: argparse.Namespace) -> KeyList:
    contents = None if options.store is None else open_repository(options).read()
    return list_keys(open_keys(options), contents)


def _passphrase(options: argparse.Namespace) -> Relocked:
    if options.decrypt and os.environ.get(NEW_PASSPHRASE_VARIABLE):
        raise RequestError(
            f"A new passphrase is given, and --unencrypted: leave that out, or {NEW_PASSPHRASE_VARIABLE}."
        )
    keys = open_keys(options)
    files = [path for path in keys.all_files() if path.suffix == ".pem"]
    if unknown := sorted(set(options.names) - {path.stem for path in files}):
        raise RequestError(f"{keys.path} has no key {unknown[0]}.pem.")
    chosen = [path for path in files if not options.names or path.stem in options.names]
    # All are opened before any is written: a wrong passphrase changes nothing.
    opened = [(path, keys.open(path)) for path in chosen]
    passphrase = _new_passphrase(options)
    for path, key in opened:
        save_key(path, key, passphrase)
    return Relocked(tuple(path.name for path in chosen), passphrase is not None)


def _new_passphrase(options: argparse.Namespace) -> str | None:
    if options.decrypt:
        return None
    if options.new_passphrase_file is not None:
        return read_passphrase(options.new_passphrase_file)
    return os.environ.get(NEW_PASSPHRASE_VARIABLE) or ask_new(
        f"set {NEW_PASSPHRASE_VARIABLE} or give --new-passphrase-file"
    )


def _export(options: argparse.Namespace) -> Exported:
    if options.out is not None and os.path.lexists(options.out):
        raise RequestError(f"{options.out} is there already: give another name to the public key.")
    public = read_key(open_keys(options), options.name)
    pem = public_pem_of(public)
    if options.out is not None:
        write_atomically(options.out, pem)
    return Exported(public.keyid, pem.decode(), None if options.out is None else str(options.out))


def _use(options: argparse.Namespace) -> KeyMade:
    public = read_public(options.public)
    path = add_uri(open_keys(options), options.name, options.uri, public)
    return KeyMade(str(path), public.keyid, public.keytype)
