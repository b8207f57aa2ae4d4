"""Whether one root may follow another, so that all that is different can be told in a few sentences."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import Key, SSlibKey
from tuf.api.metadata import Role, Root

from edge_agent.documents.errors import RequestError, TrustError
from edge_fleet.trust.contents import parse
from edge_fleet.trust.signers import public_pem_of

_MAY_DIFFER: Final = {"version", "expires", "keys", "roles"}


def read_root(path: Path) -> Root:
    """Read a root from a file outside of the store; raises RequestError or StorageError that names it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"The root {path} cannot be read: {error.strerror}.") from error
    signed = parse(content, str(path)).signed
    if not isinstance(signed, Root):
        raise RequestError(f"{path} is no root but {signed.type}: name a copy of the store's root.json.")
    return signed


def check_succession(previous: Root, proposed: Root) -> None:
    """Raise TrustError unless a root differs from the one before by its expiry and whom its roles trust.

    TUF takes any id for any key: without this a key could be changed behind the id that people know.
    """
    for problem in _problems(previous, proposed):
        raise TrustError(
            f"The proposed root {problem}: neither sign nor publish it, and ask who made the proposal."
        )


def _problems(previous: Root, proposed: Root) -> Iterator[str]:
    if proposed.version != previous.version + 1:
        yield f"has version {proposed.version} and not {previous.version + 1}"
    if _fixed(proposed) != _fixed(previous):
        yield "differs in more than its expiry and the keys of its roles"
    used = {keyid for role in proposed.roles.values() for keyid in role.keyids}
    if lacking := used - set(proposed.keys):
        yield f"lacks the key {min(lacking)}, which a role trusts"
    for keyid, key in proposed.keys.items():
        known = previous.keys.get(keyid)
        if known is None and key != _made_here(key):
            yield f"has a key under an id that is not computed from it, {keyid}"
        if known is not None and key != known:
            yield f"has another key behind the known id {keyid}"


def _fixed(root: Root) -> dict[str, Any]:
    """Return what stays the same from root to root."""
    fields = {name: value for name, value in root.to_dict().items() if name not in _MAY_DIFFER}
    return {**fields, "roles": {name: _fixed_of_role(role) for name, role in root.roles.items()}}


def _fixed_of_role(role: Role) -> dict[str, Any]:
    return {name: value for name, value in role.to_dict().items() if name not in ("keyids", "threshold")}


def _made_here(key: Key) -> SSlibKey | None:
    """Return a key with the form and id that these tools give it; None for one they cannot make.

    Another spelling of the same key would have another id, and one person's signature would count twice.
    """
    if not isinstance(key, SSlibKey):
        return None
    try:
        return SSlibKey.from_crypto(load_pem_public_key(public_pem_of(key)))
    except (ValueError, UnsupportedAlgorithm):
        return None
