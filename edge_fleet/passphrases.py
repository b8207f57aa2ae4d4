"""Where the passphrase of the keys comes from: a file, the environment, or a person at the terminal."""

import getpass
import os
import sys
from pathlib import Path

from edge_agent.documents.errors import OperatorError, RequestError
from edge_fleet.keys import PASSPHRASE_VARIABLE, KeyFolder, is_encrypted, is_private


class Asking:
    """Asks a person once, for all keys of a command; a folder of plain keys gets plain ones without a word."""

    def __init__(self, folder: Path, unencrypted: bool) -> None:
        pems = list(filter(is_private, folder.glob("*.pem")))
        self._unencrypted = unencrypted or (bool(pems) and not any(map(is_encrypted, pems)))
        self._existing: str | None = None
        self._new: str | None = None

    def existing(self, path: Path) -> str | None:
        """Return the passphrase of a key; None where there is no terminal."""
        self._existing = self._existing or self._new
        if self._existing is None and sys.stdin.isatty():
            self._existing = _ask(f"Passphrase of {path}: ")
        return self._existing

    def new(self) -> str | None:
        """Return what to encrypt new keys with."""
        if self._unencrypted:
            return None
        if not sys.stdin.isatty():
            raise OperatorError(
                f"The new keys have no passphrase: set {PASSPHRASE_VARIABLE} or give --passphrase-file, or say "
                "--unencrypted if the disk protects them."
            )
        if self._new is None:
            self._new = self._existing or _ask_twice()
        return self._new or None


def open_folder(path: Path, passphrase_file: Path | None, unencrypted: bool = False) -> KeyFolder:
    """Return a folder of keys with their passphrase, or with whom to ask for it.

    Raises RequestError if new keys shall be unencrypted and a passphrase is given.
    """
    passphrase = os.environ.get(PASSPHRASE_VARIABLE) or None
    if passphrase_file is not None:
        passphrase = read_passphrase(passphrase_file)
    if unencrypted and passphrase is not None:
        given = PASSPHRASE_VARIABLE if passphrase_file is None else "--passphrase-file"
        raise RequestError(f"A passphrase is given, and --unencrypted: leave that out, or {given}.")
    return KeyFolder(path, passphrase, Asking(path, unencrypted))


def read_passphrase(path: Path) -> str:
    """Return the first line of a file; raises OperatorError."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"The passphrase file {path} cannot be read: {error}.") from error
    if not lines or not lines[0]:
        raise OperatorError(f"The passphrase file {path} has no first line: write the passphrase there.")
    return lines[0]


def ask_new(otherwise: str) -> str | None:
    """Ask for a new passphrase; without a terminal raises OperatorError that tells how else to give it."""
    if not sys.stdin.isatty():
        raise OperatorError(f"There is no terminal to ask for the new passphrase: {otherwise}.")
    return _ask_twice() or None


def _ask_twice() -> str:
    while True:
        passphrase = _ask("Passphrase for the new keys (empty: leave them unencrypted): ")
        if passphrase == _ask("Once more: "):
            return passphrase
        sys.stderr.write("They differ.\n")


def _ask(question: str) -> str:
    try:
        return getpass.getpass(question)
    except EOFError as error:
        sys.stderr.write("\n")  # behind the question
        raise OperatorError("No passphrase was given: run the command again, and answer with one.") from error
