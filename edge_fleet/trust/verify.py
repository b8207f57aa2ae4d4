"""Checks a store's signed metadata as the strictest device would, and goes on after what it finds.

Source: https://theupdateframework.github.io/specification/latest/, section 5.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuf.api import exceptions
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from edge_agent.documents.errors import StorageError
from edge_fleet.stores.base import StoreFiles
from edge_fleet.trust.contents import (
    TIMESTAMP_FILE,
    TOP_LEVEL,
    metadata_name,
    newest_root,
    parse,
    target_name,
)


@dataclass(frozen=True, slots=True)
class ListedTarget:
    """A target that a role signs."""

    role: str
    path: str
    name: str
    """Where it lies in the store."""
    sha256: str
    size_bytes: int


class MetadataCheck:
    """One pass over the metadata: what is wrong, a sentence each, and what it says.

    Found from `timestamp.json` downwards, never by listing files. Without a time nothing counts as expired.
    """

    def __init__(self, files: StoreFiles, now: datetime | None = None) -> None:
        self._files = files
        self._now = now
        self._root_before: Root | None = None
        self.findings: list[str] = []
        self.lagging: dict[str, str] = {}
        """Roles that are signed with the keys of the root before the newest alone, a sentence each: publishing
        the newest root was cut off."""
        self.roles: dict[str, Metadata[Any]] = {}
        """The metadata of every role that could be read."""
        self.root_bytes = b""
        """The newest root as it lies there."""
        self.timestamp_bytes = b""
        """The timestamp as it lies there."""
        self.targets: list[ListedTarget] = []
        self.checked = 0
        """Metadata files that were read."""

    def run(self, trusted: Root | None = None) -> None:
        """Check everything; with a root that devices have, also that the store's roots lead over that one."""
        root = self._roots(trusted)
        if root is None:
            return
        timestamp = self._timestamp(root)
        if timestamp is None:
            return
        snapshot = self._snapshot(root, timestamp)
        if snapshot is None:
            return
        self._all_targets(root, snapshot)

    def _roots(self, trusted: Root | None) -> Root | None:
        """Return the root that devices end with, None if there is none."""
        newest = newest_root(self._files)
        previous: Root | None = None
        for version in range(1, newest + 1):
            name = metadata_name("root", version)
            self._root_before, previous = previous, self._root(name, version, previous)
            if trusted is not None and version == trusted.version:
                if previous is not None and previous != trusted:
                    self.findings.append(
                        f"{name} is not the root {version} that is trusted: this is another store, or forged."
                    )
                    self._root_before = None
                previous = trusted
        if trusted is not None and trusted.version > newest:
            name = metadata_name("root", trusted.version)
            self.findings.append(
                f"The store lacks {name}, which is trusted: it was set back, restore it from a backup."
            )
            self._root_before, previous = None, trusted
        if previous is not None:
            self._check_expiry(metadata_name("root", previous.version), previous.expires)
        return previous

    def _root(self, name: str, version: int, previous: Root | None) -> Root | None:
        content = self._read(name)
        root = self._load(content, name, Root)
        if root is None or content is None:
            return None
        self._check_version(name, root.signed.version, version)
        for delegator in filter(None, (previous, root.signed)):
            self._check_signed(name, delegator, "root", root)
        self.roles["root"], self.root_bytes = root, content
        signed: Root = root.signed
        return signed

    def _timestamp(self, root: Root) -> Timestamp | None:
        content = self._read(TIMESTAMP_FILE)
        timestamp = self._load(content, TIMESTAMP_FILE, Timestamp)
        if timestamp is None or content is None:
            return None
        self.roles["timestamp"], self.timestamp_bytes = timestamp, content
        self._check_signed(TIMESTAMP_FILE, root, "timestamp", timestamp)
        self._check_expiry(TIMESTAMP_FILE, timestamp.signed.expires)
        signed: Timestamp = timestamp.signed
        return signed

    def _snapshot(self, root: Root, timestamp: Timestamp) -> Snapshot | None:
        snapshot = self._described("snapshot", timestamp.snapshot_meta, root, Snapshot)
        return None if snapshot is None else snapshot.signed

    def _all_targets(self, root: Root, snapshot: Snapshot) -> None:
        meta = dict(snapshot.meta)
        described = meta.pop("targets.json", None)
        if described is None:
            self.findings.append("The snapshot lists no targets.json.")
            return
        top = self._described("targets", described, root, Targets)
        if top is None:
            return
        self._list("targets", top.signed, None)
        delegations = top.signed.delegations
        roles = {} if delegations is None or delegations.roles is None else dict(delegations.roles)
        for role, delegated in roles.items():
            described = meta.pop(f"{role}.json", None)
            if described is None:
                self.findings.append(f"The snapshot lists no {role}.json, which targets delegates to.")
                continue
            metadata = self._described(role, described, top.signed, Targets)
            if metadata is not None:
                self._list(role, metadata.signed, delegated)
        self.findings += [f"The snapshot lists {name}, which nothing delegates to." for name in sorted(meta)]

    def _list(self, role: str, targets: Targets, delegated: Any) -> None:
        for path, info in targets.targets.items():
            if delegated is not None and not delegated.is_delegated_path(path):
                self.findings.append(f"{role} signs {path}, which it is not trusted for.")
            digest = info.hashes.get("sha256")
            if digest is None:
                self.findings.append(f"{role} signs {path} without its sha256.")
                continue
            self.targets.append(ListedTarget(role, path, target_name(path, digest), digest, info.length))

    def _described(
        self, role: str, meta: MetaFile, delegator: Root | Targets, kind: type
    ) -> Metadata[Any] | None:
        name = metadata_name(role, meta.version)
        content = self._read(name)
        metadata = self._load(content, name, kind)
        if metadata is None or content is None:
            return None
        self.roles[role] = metadata
        try:
            meta.verify_length_and_hashes(content)
        except exceptions.LengthOrHashMismatchError:
            self.findings.append(f"{name} is not the file that was signed for: its length or digest differs.")
        self._check_version(name, metadata.signed.version, meta.version)
        self._check_signed(name, delegator, role, metadata)
        self._check_expiry(name, metadata.signed.expires)
        return metadata

    def _read(self, name: str) -> bytes | None:
        try:
            content = self._files.read(name)
        except StorageError as error:
            self.findings.append(str(error))
            return None
        self.checked += 1
        return content

    def _load(self, content: bytes | None, name: str, kind: type) -> Metadata[Any] | None:
        if content is None:
            return None
        try:
            metadata = parse(content, f"{self._files}/{name}")
        except StorageError as error:
            self.findings.append(str(error))
            return None
        if not isinstance(metadata.signed, kind):
            self.findings.append(f"{name} is metadata of another kind, {metadata.signed.type}.")
            return None
        return metadata

    def _check_signed(self, name: str, delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> None:
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        if result.verified:
            return
        before = self._root_before
        if role in TOP_LEVEL[1:] and before is not None and _verifies(before, role, metadata):
            self.lagging[role] = (
                f"{name} is signed with the keys of root {before.version}, since publishing root "
                f"{delegator.version} was cut off: run edge-fleet refresh --all where the new keys are."
            )
            return
        self.findings.append(
            f"{name} is signed by {len(result.signed)} of {result.threshold} keys that {delegator.type} "
            f"{delegator.version} trusts."
        )

    def _check_version(self, name: str, version: int, wanted: int) -> None:
        if version != wanted:
            self.findings.append(f"{name} holds version {version}.")

    def _check_expiry(self, name: str, expires: datetime) -> None:
        if self._now is not None and expires <= self._now:
            self.findings.append(f"{name} expired on {expires:%Y-%m-%d %H:%M} UTC: run edge-fleet refresh.")


def _verifies(root: Root, role: str, metadata: Metadata[Any]) -> bool:
    return bool(root.get_verification_result(role, metadata.signed_bytes, metadata.signatures))


def all_roles(files: StoreFiles, names: Iterator[str]) -> Iterator[ListedTarget]:
    """Yield the targets that any of these metadata files lists, whether they are current or not."""
    for name in names:
        metadata = parse(files.read(name), f"{files}/{name}")
        if isinstance(metadata.signed, Targets):
            for path, info in metadata.signed.targets.items():
                digest = info.hashes["sha256"]
                yield ListedTarget(metadata.signed.type, path, target_name(path, digest), digest, info.length)
