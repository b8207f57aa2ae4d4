"""What several commands share: the store, the keys, the time."""

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edge_agent.documents.errors import RequestError
from edge_fleet.keys import PASSPHRASE_VARIABLE, KeyFolder
from edge_fleet.passphrases import open_folder
from edge_fleet.repository import Repository

KEYS_VARIABLE: Final = "EDGE_FLEET_KEYS"


def add_keys(parser: argparse.ArgumentParser, creates: bool = False) -> None:
    """Add the options that name the keys and unlock them."""
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="KEYS",
        help=f"folder of the private keys, outside the store (${KEYS_VARIABLE})",
    )
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help=f"file whose first line is the passphrase of the keys (or ${PASSPHRASE_VARIABLE}, or a terminal)",
    )
    if creates:
        parser.add_argument(
            "--unencrypted",
            action="store_true",
            help="make new keys without a passphrase, for a disk that is one's own",
        )


def open_keys(options: argparse.Namespace) -> KeyFolder:
    """Return the folder of the keys; raises RequestError if none is named."""
    path = options.keys or os.environ.get(KEYS_VARIABLE)
    if not path:
        raise RequestError(f"No keys are named: give --keys FOLDER, or set {KEYS_VARIABLE}.")
    return open_folder(Path(path).expanduser(), options.passphrase_file, getattr(options, "unencrypted", False))


def open_repository(options: argparse.Namespace) -> Repository:
    """Return the store; the command line warns of what expires in there when the command has ended."""
    repository = Repository(options.store)
    options.repository = repository
    return repository


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)
