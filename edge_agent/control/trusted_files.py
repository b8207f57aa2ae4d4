"""The trusted metadata on disk, as tuf's updater leaves it, and the record of the versions seen.

Read as plain JSON: whoever calls knows which files were verified.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

TOP_LEVEL: Final = ("root", "timestamp", "snapshot", "targets")


@dataclass(frozen=True, slots=True)
class Marks:
    """The highest versions that this device has verified; they never go back."""

    versions: dict[str, int] = field(default_factory=dict)
    """By role: root, timestamp, snapshot, targets, and every delegated one."""
    keys: dict[str, str] = field(default_factory=dict)
    """Digest of the key ids of timestamp and snapshot: with new keys their versions may start again."""
    serials: dict[str, int] = field(default_factory=dict)
    """Deployment serial by group."""


def next_name(folder: Path) -> str:
    """Return the name of the next numbered folder."""
    numbers = [int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal()]
    return str(max(numbers, default=0) + 1)


def remove_leftovers(folder: Path) -> None:
    """Remove numbered folders that are not in use: of a crash, or of the state before."""
    for path in folder.glob("[0-9]*"):
        if path.name.isdecimal() and not is_target_of(folder / "current", path):
            shutil.rmtree(path, ignore_errors=True)


def is_target_of(link: Path, folder: Path) -> bool:
    """Say whether the link leads to this folder beside it."""
    return link.is_symlink() and link.readlink().name == folder.name


def copy_metadata(source: Path, target: Path) -> None:
    """Make a new folder with the metadata files of another, which may be missing."""
    target.mkdir(mode=0o750)
    for name, content in contents_of(source).items():
        path = target / name
        path.parent.mkdir(mode=0o750, exist_ok=True)
        path.write_bytes(content)


def contents_of(folder: Path) -> dict[str, bytes]:
    """Return the metadata files of a folder by relative name; root.json is only a link into root_history."""
    paths = [*folder.glob("*.json"), *folder.glob("root_history/*.json")]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if path.is_file() and not path.is_symlink()
    }


def role_of(path: Path) -> str:
    """Return the role of a metadata file; a version may stand in front: `3.m-digits.json`."""
    name = unquote(path.name.removesuffix(".json"))
    version, dot, role = name.partition(".")
    return role if dot and version.isdecimal() else name


def role_file(folder: Path, role: str) -> Path:
    """Return where a role's metadata lies."""
    return folder / f"{role}.json"


def signed_part(content: bytes) -> dict[str, Any]:
    """Return the signed part, or nothing where the content is damaged."""
    try:
        signed = json.loads(content)["signed"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return signed if isinstance(signed, dict) else {}


def read_signed(path: Path) -> dict[str, Any]:
    """Return the signed part of a file, or nothing where it is missing or damaged."""
    try:
        return signed_part(path.read_bytes())
    except OSError:
        return {}


def expiry_of(signed: dict[str, Any]) -> datetime | None:
    """Return when a signed part expires, in UTC, or None where it does not say."""
    try:
        return datetime.fromisoformat(signed["expires"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        return None


def versions_of(folder: Path, verified: frozenset[str]) -> dict[str, int]:
    """Return the version of each verified role; of the delegated ones, what a verified snapshot says."""
    versions = {role: read_signed(role_file(folder, role)).get("version") for role in verified}
    if "snapshot" in verified:
        for name, meta in read_signed(role_file(folder, "snapshot")).get("meta", {}).items():
            versions[name.removesuffix(".json")] = meta["version"]
    return {role: version for role, version in versions.items() if isinstance(version, int)}


def key_digests(folder: Path) -> dict[str, str]:
    """Return a digest of the key ids that the root here gives to timestamp and snapshot."""
    roles = read_signed(role_file(folder, "root")).get("roles", {})
    return {
        role: hashlib.sha256(" ".join(sorted(roles[role]["keyids"])).encode()).hexdigest()[:32]
        for role in ("timestamp", "snapshot")
        if role in roles
    }


def still_binding(marks: Marks, keys: dict[str, str]) -> dict[str, int]:
    """Return the versions that still bind.

    A root that replaces the keys of timestamp or snapshot lets the versions that those signed start again, so
    that a thief of the old keys cannot have locked the fleet out by signing a huge version (TUF 5.3.11).
    """
    versions = dict(marks.versions)
    if marks.keys.get("timestamp", keys.get("timestamp")) != keys.get("timestamp"):
        versions.pop("timestamp", None)
    if marks.keys.get("snapshot", keys.get("snapshot")) != keys.get("snapshot"):
        versions = {role: version for role, version in versions.items() if role in ("root", "timestamp")}
    return versions
