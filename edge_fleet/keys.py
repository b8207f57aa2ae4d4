"""Private keys as PEM files in a folder that is not part of the store."""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edge_agent.documents.errors import OperatorError
from edge_agent.store.files import mapping_os_errors, write_atomically

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey

PASSPHRASE_VARIABLE = "EDGE_FLEET_PASSPHRASE"  # noqa: S105 - the name of a variable, not a passphrase


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """Keys by role: `root.pem`, `targets.pem`, `m-<model>.pem`; encrypted if there is a passphrase."""

    path: Path
    passphrase: str | None = None

    def file(self, role: str) -> Path:
        """Return where a role's key lies."""
        return self.path / f"{role}.pem"

    def has(self, role: str) -> bool:
        """Say whether a role's key is here."""
        return self.file(role).is_file()

    def load(self, role: str) -> PrivateKey:
        """Return a role's key; raises OperatorError if it is missing, locked or not a key."""
        return load_key(self.file(role), self.passphrase)

    def load_or_create(self, role: str) -> PrivateKey:
        """Return a role's key, a new Ed25519 one if there is none yet."""
        if self.has(role):
            return self.load(role)
        key = Ed25519PrivateKey.generate()
        with mapping_os_errors(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, self._encryption())
        write_atomically(self.file(role), pem, mode=0o600)
        return key

    def check_outside(self, store: Path) -> None:
        """Raise OperatorError if the keys lie inside the store, which is public."""
        if self.path.resolve().is_relative_to(store.resolve()):
            raise OperatorError(
                f"The keys {self.path} lie inside the store {store}, which everyone can read: choose a folder "
                "outside of it."
            )

    def _encryption(self) -> KeySerializationEncryption:
        return BestAvailableEncryption(self.passphrase.encode()) if self.passphrase else NoEncryption()


def load_key(path: Path, passphrase: str | None) -> PrivateKey:
    """Return the Ed25519 or ECDSA key of a PEM file; raises OperatorError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"The key {path} cannot be read ({error.strerror}): name the folder that holds it with --keys."
        ) from error
    try:
        key = load_pem_private_key(content, passphrase.encode() if passphrase else None)
    except TypeError as error:
        # cryptography tells a missing passphrase, and one for a key that has none, by a TypeError.
        remedy = "unset" if passphrase else "set"
        raise OperatorError(
            f"The key {path} cannot be opened ({error}): {remedy} {PASSPHRASE_VARIABLE}."
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = f"wrong {PASSPHRASE_VARIABLE}, or not a PEM file" if passphrase else "it is not a PEM file"
        raise OperatorError(f"The key {path} cannot be opened: {hint}.") from error
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise OperatorError(f"The key {path} is neither Ed25519 nor ECDSA.")
    return key


def key_folder(path: Path) -> KeyFolder:
    """Return the folder with the passphrase of the environment, if there is one."""
    return KeyFolder(path, os.environ.get(PASSPHRASE_VARIABLE) or None)
