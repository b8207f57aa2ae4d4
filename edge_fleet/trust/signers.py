"""Turns the keys of a folder into signers: PEM files, and whatever securesystemslib signs with by a URI."""

import getpass
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.exceptions import Error as SecureSystemsLibError
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey
from tuf.api import exceptions
from tuf.api.metadata import Metadata, Role

from edge_agent.documents.errors import OperatorError, RequestError
from edge_agent.store.files import mapping_os_errors, write_atomically
from edge_fleet.keys import KeyFolder, PrivateKey

PIN_VARIABLE: Final = "EDGE_FLEET_PIN"


@dataclass(frozen=True, slots=True)
class TrustedRole:
    """Whose signatures a role needs; full key ids."""

    keyids: tuple[str, ...]
    threshold: int


def load_signers(keys: KeyFolder, role: str, wanted: TrustedRole | Role | None = None) -> list[Signer]:
    """Return the signers of a role's keys, or of those that are `wanted`.

    Raises OperatorError if there is none, or one cannot be opened and the others are not enough.
    """
    signers: list[Signer] = []
    failed: list[OperatorError] = []
    for path in keys.files(role):
        try:
            signers += _open(keys, path, wanted)
        except OperatorError as error:
            failed.append(error)
    if failed and (wanted is None or len({signer.public_key.keyid for signer in signers}) < wanted.threshold):
        raise failed[0]
    if not signers and not keys.has(role):
        keys.load(role)  # The error says which file was looked for.
    return signers


def create_signers(keys: KeyFolder, role: str) -> list[Signer]:
    """Return the signers of a role's keys, of a new key if there is none yet."""
    if not keys.has(role):
        keys.create(role)
    return load_signers(keys, role)


def signer_of(key: PrivateKey) -> CryptoSigner:
    """Return the signer of a private key."""
    return CryptoSigner(key)


def sign(metadata: Metadata[Any], signers: Sequence[Signer], append: bool = False) -> None:
    """Sign metadata with all signers; raises OperatorError if a token or service does not."""
    for number, signer in enumerate(signers):
        try:
            metadata.sign(signer, append=append or number > 0)
        except (exceptions.RepositoryError, SecureSystemsLibError, ValueError) as error:
            name = signer.public_key.keyid[:12]
            raise OperatorError(
                f"The key {name} did not sign ({_cause(error)}): check its token or service."
            ) from error


def read_public(path: Path) -> SSlibKey:
    """Return the public key of a PEM file; raises RequestError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"The public key {path} cannot be read: {error.strerror}.") from error
    try:
        return SSlibKey.from_crypto(load_pem_public_key(content))
    except Exception as error:
        raise RequestError(
            f"{path} is not the PEM file of a public key: make one with edge-fleet keys export."
        ) from error


def read_key(keys: KeyFolder, name: str) -> SSlibKey:
    """Return the public part of a key of the folder, by its file's name without the ending."""
    path = keys.path / f"{name}.json"
    return described(keys, path if path.is_file() else keys.path / f"{name}.pem")[0]


def public_pem_of(key: SSlibKey) -> bytes:
    """Return a public key as PEM."""
    if key.keytype == "ed25519":
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return str(key.keyval["public"]).encode()


def add_uri(keys: KeyFolder, name: str, uri: str, public: SSlibKey) -> Path:
    """Have a role's key used through a URI from now on; tries it first. Returns the file that says so.

    Raises OperatorError if nothing signs by this URI, or not with this public key.
    """
    path = keys.new_file(name, ".json")
    signer = _open_uri(uri, public, path)
    probe = b"edge-fleet: does this signer have the key?"
    try:
        public.verify_signature(signer.sign(probe), probe)
    except Exception as error:
        raise OperatorError(f"{uri} does not sign as the public key says: {_cause(error)}.") from error
    document = {"uri": uri, "keyid": public.keyid, "key": public.to_dict()}
    with mapping_os_errors(keys.path):
        keys.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, json.dumps(document, indent=2).encode(), mode=0o600)
    return path


def described(keys: KeyFolder, path: Path) -> tuple[SSlibKey, str | None]:
    """Return the public part of a key file, and the URI if it is reached by one."""
    if path.suffix != ".json":
        return signer_of(keys.open(path)).public_key, None
    uri, public = _read_uri(path)
    return public, uri


def _open(keys: KeyFolder, path: Path, wanted: TrustedRole | Role | None) -> list[Signer]:
    """Return the signer of a key file, or none if it is not wanted; a token is not even asked then."""
    if path.suffix == ".json":
        uri, public = _read_uri(path)
        return [_open_uri(uri, public, path)] if wanted is None or public.keyid in wanted.keyids else []
    signer = signer_of(keys.open(path))
    return [signer] if wanted is None or signer.public_key.keyid in wanted.keyids else []


def _read_uri(path: Path) -> tuple[str, SSlibKey]:
    try:
        document = json.loads(path.read_bytes())
        return str(document["uri"]), SSlibKey.from_dict(document["keyid"], document["key"])
    except OSError as error:
        raise OperatorError(f"The key {path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, SecureSystemsLibError) as error:
        raise OperatorError(f"{path} names no key: make it again with edge-fleet keys use.") from error


def _open_uri(uri: str, public: SSlibKey, path: Path) -> Signer:
    try:
        return Signer.from_priv_key_uri(uri, public, _secret)
    except ImportError as error:
        raise OperatorError(
            f"The key {path} needs a package that is not installed: {_cause(error)}."
        ) from error
    except Exception as error:
        # Each service raises exceptions of its own, which only its own package knows.
        raise OperatorError(f"The key {path} cannot be opened by {uri}: {_cause(error)}.") from error


def _secret(name: str) -> str:
    """Return the PIN of a token, from the environment or its owner."""
    pin = os.environ.get(PIN_VARIABLE)
    if pin:
        return pin
    if not sys.stdin.isatty():
        raise OperatorError(f"The token wants its {name}: set {PIN_VARIABLE}, or run this on a terminal.")
    return getpass.getpass(f"{name.upper()} of the token: ")


def _cause(error: BaseException) -> str:
    """Return the innermost reason, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
