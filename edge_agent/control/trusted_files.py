"""The trusted metadata on disk, and the record of what was verified.

Read as plain JSON: whoever calls knows which files were verified.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from edge_agent.store.files import mapping_os_errors, sync_file, sync_folder, write_atomically

TOP_LEVEL: Final = ("root", "timestamp", "snapshot", "targets")

Files = Mapping[str, bytes]
"""Metadata files by name, as they lie in a folder: `timestamp.json`, `root_history/2.root.json`."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What this device has verified, so that nothing ever goes back: the high-water marks."""

    versions: dict[str, int] = field(default_factory=dict)
    """By role: root, timestamp, snapshot, targets, and every delegated one."""
    keys: dict[str, str] = field(default_factory=dict)
    """Digest of the key ids of timestamp and snapshot: with new keys their versions may start again."""
    serials: dict[str, int] = field(default_factory=dict)
    """Deployment serial by group."""
    proven: datetime | None = None
    """When the newest timestamp was signed, as its signer says."""


def read_marks(folder: Path) -> tuple[Marks, str | None]:
    """Return a trust folder's record, and a sentence if it was damaged and starts again; raises OSError."""
    file = _marks_file(folder)
    try:
        content = json.loads(file.read_bytes())
        proven = content.get("proven")
        return (
            Marks(
                versions={str(role): int(version) for role, version in content["versions"].items()},
                keys={str(role): str(digest) for role, digest in content["keys"].items()},
                serials={str(group): int(serial) for group, serial in content["serials"].items()},
                proven=None if proven is None else datetime.fromisoformat(proven).astimezone(UTC),
            ),
            None,
        )
    except FileNotFoundError:
        return Marks(), None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        problem = f"The record of trusted versions {file} was damaged and starts again: check the disk."
        return Marks(), problem


def write_marks(folder: Path, marks: Marks) -> None:
    """Put the record on disk, durably, unless it is there; raises StorageError."""
    content = {"versions": marks.versions, "keys": marks.keys, "serials": marks.serials}
    proven = {} if marks.proven is None else {"proven": marks.proven.isoformat()}
    encoded = json.dumps({**content, **proven}, sort_keys=True, indent=1).encode()
    file = _marks_file(folder)
    with mapping_os_errors(folder):
        if not file.exists() or file.read_bytes() != encoded:
            write_atomically(file, encoded)


def _marks_file(folder: Path) -> Path:
    return folder / "versions.json"


def switch(folder: Path, files: Files) -> None:
    """Make these the files of `current`: a new folder, flushed, then one rename; raises StorageError."""
    new = folder / next_name(folder)
    with mapping_os_errors(folder):
        try:
            _write(new, files)
            link = folder / ".current"
            link.unlink(missing_ok=True)
            link.symlink_to(new.name)
            link.replace(folder / "current")
            sync_folder(folder)
        finally:
            remove_leftovers(folder)


def _write(folder: Path, files: Files) -> None:
    folder.mkdir(mode=0o750)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(mode=0o750, exist_ok=True)
        path.write_bytes(content)
        sync_file(path)
    for parent in {(folder / name).parent for name in files}:
        sync_folder(parent)
    sync_folder(folder)


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


def contents_of(folder: Path) -> dict[str, bytes]:
    """Return the metadata files of a folder, which may be missing."""
    paths = [*folder.glob("*.json"), *folder.glob("root_history/*.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def role_of(path: Path) -> str:
    """Return the role of a metadata file; a version may stand in front: `3.m-digits.json`."""
    name = unquote(path.name.removesuffix(".json"))
    version, dot, role = name.partition(".")
    return role if dot and version.isdecimal() else name


def signed_part(content: bytes) -> dict[str, Any]:
    """Return the signed part, or nothing where the content is damaged."""
    try:
        signed = json.loads(content)["signed"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return signed if isinstance(signed, dict) else {}


def expiry_of(signed: dict[str, Any]) -> datetime | None:
    """Return when a signed part expires, in UTC, or None where it does not say."""
    try:
        return datetime.fromisoformat(signed["expires"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def signed_of(files: Files, role: str) -> dict[str, Any]:
    """Return the signed part of a top-level role, or nothing where its file is missing or damaged."""
    return signed_part(files.get(f"{role}.json", b""))


def versions_of(files: Files, verified: frozenset[str]) -> dict[str, int]:
    """Return the version of each verified top-level role; of delegated ones, as a verified snapshot says."""
    versions = {role: signed_of(files, role).get("version") for role in verified}
    if "snapshot" in verified:
        for name, meta in signed_of(files, "snapshot").get("meta", {}).items():
            versions[name.removesuffix(".json")] = meta["version"]
    return {role: version for role, version in versions.items() if isinstance(version, int)}


def key_digests(root: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest of the key ids that a root, by its signed part, gives to timestamp and snapshot."""
    roles = root.get("roles", {})
    return {
        role: hashlib.sha256(" ".join(sorted(roles[role]["keyids"])).encode()).hexdigest()[:32]
        for role in ("timestamp", "snapshot")
        if role in roles
    }


def still_binding(marks: Marks, keys: dict[str, str]) -> Marks:
    """Return what of the marks still binds under a root with these keys.

    A root that replaces the keys of timestamp or snapshot lets the versions that those signed start again, and
    the time that they told, so that a thief of the old keys cannot have locked the fleet out by signing a huge
    version or a time to come (TUF 5.3.11).
    """
    versions, proven = dict(marks.versions), marks.proven
    if marks.keys.get("timestamp", keys.get("timestamp")) != keys.get("timestamp"):
        versions.pop("timestamp", None)
        proven = None
    if marks.keys.get("snapshot", keys.get("snapshot")) != keys.get("snapshot"):
        versions = {role: version for role, version in versions.items() if role in ("root", "timestamp")}
    return replace(marks, versions=versions, proven=proven)
