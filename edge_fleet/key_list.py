"""What is in a folder of keys, and who trusts it."""

from dataclasses import dataclass
from pathlib import Path

from edge_agent.documents.errors import OperatorError
from edge_fleet.keys import KeyFolder, is_encrypted
from edge_fleet.repository import Contents
from edge_fleet.rotate import trusted
from edge_fleet.trust.proposal import shortened
from edge_fleet.trust.signers import described


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key of a folder."""

    file: str
    role: str
    keyid: str | None
    """Full; None if the key cannot be opened."""
    type: str | None
    """`ed25519`, `ecdsa` or `rsa`."""
    kept: str
    """`encrypted`, `plain`, or the URI by which it is reached."""
    trusted_by: tuple[str, ...] | None
    """Roles of the store that take its signatures; None without a store."""
    problem: str | None = None
    """Why the key cannot be opened."""


@dataclass(frozen=True, slots=True)
class KeyList:
    """The keys of a folder."""

    folder: str
    keys: tuple[KeyRow, ...]


def list_keys(keys: KeyFolder, contents: Contents | None) -> KeyList:
    """Look at all keys of a folder; a key that cannot be opened is listed with the reason."""
    trusting = {} if contents is None else {role: trusted(contents, role).keyids for role in contents.roles}
    rows = (_row(keys, path, None if contents is None else trusting) for path in keys.all_files())
    return KeyList(str(keys.path), tuple(rows))


def _row(keys: KeyFolder, path: Path, trusting: dict[str, tuple[str, ...]] | None) -> KeyRow:
    role = path.name.partition(".")[0]
    kept = "encrypted" if is_encrypted(path) else "plain"
    try:
        public, uri = described(keys, path)
    except OperatorError as error:
        return KeyRow(path.name, role, None, None, kept, None, str(error))
    trusted_by = (
        None if trusting is None else tuple(sorted(r for r, ids in trusting.items() if public.keyid in ids))
    )
    return KeyRow(path.name, role, public.keyid, public.keytype, uri or kept, trusted_by)


def short_id(row: KeyRow) -> str:
    """Return a key's id to be shown."""
    return "locked" if row.keyid is None else shortened(row.keyid)
