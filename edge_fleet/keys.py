"""Private keys as PEM files in a folder that is not part of the store.

A role's keys are `<role>.pem` and `<role>.<label>.pem`; `<role>.json` and `<role>.<label>.json` name keys that
are elsewhere, by URI. A folder may hold keys that the store does not trust (any more): those never sign.
PEM files of anything else, such as exported public keys, are not looked at.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edge_agent.documents.errors import OperatorError, RequestError
from edge_agent.store.files import mapping_os_errors, write_atomically

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
KeyType = Literal["ed25519", "ecdsa"]
KEY_TYPES: Final[tuple[KeyType, ...]] = ("ed25519", "ecdsa")

PASSPHRASE_VARIABLE = "EDGE_FLEET_PASSPHRASE"  # noqa: S105 - the name of a variable, not a passphrase


class Passphrases(Protocol):
    """Who knows the passphrase of keys, for example a person at a terminal."""

    def existing(self, path: Path) -> str | None:
        """Return the passphrase of a key that is encrypted; None if nobody can tell."""

    def new(self) -> str | None:
        """Return what to encrypt a new key with, None to leave it plain; raises OperatorError if unsaid."""


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """The keys of a folder by role; encrypted if there is a passphrase."""

    path: Path
    passphrase: str | None = None
    passphrases: Passphrases | None = None
    """Is asked where `passphrase` is None."""

    def file(self, role: str) -> Path:
        """Return where a role's first key lies."""
        return self.path / f"{role}.pem"

    def files(self, role: str) -> list[Path]:
        """Return the files of all keys of a role, sorted."""
        found = {path for suffix in ("pem", "json") for path in self.path.glob(f"{role}.*{suffix}")}
        return sorted(path for path in found if path.name.partition(".")[0] == role and is_private(path))

    def all_files(self) -> list[Path]:
        """Return the files of all keys, sorted; raises OperatorError if there is no such folder."""
        if not self.path.is_dir():
            raise OperatorError(f"{self.path} is no folder: name the one that holds the keys with --keys.")
        found = (path for path in self.path.iterdir() if path.suffix in (".pem", ".json"))
        return sorted(filter(is_private, found))

    def has(self, role: str) -> bool:
        """Say whether a role has a key here."""
        return bool(self.files(role))

    def load(self, role: str) -> PrivateKey:
        """Return a role's first key; raises OperatorError if it is missing, locked or not a key."""
        return self.open(self.file(role))

    def open(self, path: Path) -> PrivateKey:
        """Return the key of a file; raises OperatorError if it is missing, locked or not a key."""
        passphrase = self.passphrase
        if passphrase is None and self.passphrases is not None and is_encrypted(path):
            passphrase = self.passphrases.existing(path)
        return load_key(path, passphrase)

    def create(self, name: str, kind: KeyType = "ed25519") -> PrivateKey:
        """Make a key named by its role or `<role>.<label>`; raises RequestError if it is there already."""
        path = self.new_file(name, ".pem")
        key = new_key(kind)
        passphrase = self.passphrase
        if passphrase is None and self.passphrases is not None:
            passphrase = self.passphrases.new()
        save_key(path, key, passphrase)
        return key

    def new_file(self, name: str, suffix: str) -> Path:
        """Return where a key of this name goes; raises RequestError for a name that is none or is taken."""
        if not name or name.startswith(".") or "/" in name or name.count(".") > 1:
            raise RequestError(f"'{name}' cannot name a key: write a role, or ROLE.LABEL.")
        for path in (self.path / f"{name}.pem", self.path / f"{name}.json"):
            if path.exists():
                role = name.partition(".")[0]
                raise RequestError(f"{path} exists already: choose another name, {role}.LABEL.")
        return self.path / f"{name}{suffix}"

    def check_outside(self, store: Path) -> None:
        """Raise OperatorError if the keys lie inside the store, which is public."""
        if self.path.resolve().is_relative_to(store.resolve()):
            raise OperatorError(
                f"The keys {self.path} lie inside the store {store}, which everyone can read: choose a folder "
                "outside of it."
            )


def new_key(kind: KeyType) -> PrivateKey:
    """Make a key: Ed25519, or ECDSA on the curve P-256."""
    return Ed25519PrivateKey.generate() if kind == "ed25519" else generate_private_key(SECP256R1())


def save_key(path: Path, key: PrivateKey, passphrase: str | None) -> None:
    """Write a key that only its owner reads, encrypted if there is a passphrase."""
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
    with mapping_os_errors(path.parent):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), mode=0o600)


def is_private(path: Path) -> bool:
    """Say whether a file stands for a private key; True if it cannot be read, which opening it will tell.

    False for a PEM file of anything else: a public key that was exported, a certificate.
    """
    try:
        return path.suffix != ".pem" or b"PRIVATE KEY" in path.read_bytes()
    except OSError:
        return True


def is_encrypted(path: Path) -> bool:
    """Say whether a PEM file is encrypted; False if it cannot be read, which opening it will tell."""
    try:
        return b"ENCRYPTED" in path.read_bytes()
    except OSError:
        return False


def load_key(path: Path, passphrase: str | None) -> PrivateKey:
    """Return the Ed25519 or ECDSA key of a PEM file; raises OperatorError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"The key {path} cannot be read ({error.strerror}): name the folder that holds it with --keys."
        ) from error
    try:
        # A passphrase for a key that has none is no mistake: the keys of a folder may differ.
        secret = passphrase.encode() if passphrase and b"ENCRYPTED" in content else None
        key = load_pem_private_key(content, secret)
    except TypeError as error:
        # cryptography tells a missing passphrase by a TypeError.
        raise OperatorError(f"The key {path} is encrypted: set {PASSPHRASE_VARIABLE}.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = f"wrong {PASSPHRASE_VARIABLE}, or not a PEM file" if passphrase else "it is not a PEM file"
        raise OperatorError(f"The key {path} cannot be opened: {hint}.") from error
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise OperatorError(f"The key {path} is neither Ed25519 nor ECDSA.")
    return key
