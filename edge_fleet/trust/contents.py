"""What a store's signed metadata says, and by which names it lies there."""

import hashlib
from datetime import datetime
from typing import Any, Final

from securesystemslib.exceptions import Error as SecureSystemsLibError
from tuf.api import exceptions
from tuf.api.metadata import Metadata

from edge_agent.documents.errors import StorageError
from edge_fleet.stores.base import StoreFiles

TOP_LEVEL: Final = ("root", "targets", "snapshot", "timestamp")
DEPLOYMENTS: Final = "deployments"
ONLINE: Final = ("timestamp", "snapshot", DEPLOYMENTS)
"""Roles whose keys are where refreshing happens; the others' may be kept offline."""
TIMESTAMP_FILE: Final = "metadata/timestamp.json"
ROOT_FILE: Final = "root.json"
"""A copy of the newest root, for devices to start from."""


class Contents:
    """The metadata of every role of a store, by role."""

    def __init__(
        self,
        files: StoreFiles,
        roles: dict[str, Metadata[Any]],
        root_bytes: bytes = b"",
        timestamp_bytes: bytes = b"",
        lagging: frozenset[str] = frozenset(),
    ) -> None:
        self._files = files
        self.roles = roles
        self.root_bytes = root_bytes
        """The newest root as it is published."""
        self.timestamp_bytes = timestamp_bytes
        """The timestamp as it is published; none before a store is made."""
        self.lagging = lagging
        """Roles that are still signed with the keys of the root before the newest alone."""

    @property
    def expires(self) -> dict[str, datetime]:
        """When each role expires."""
        return {role: metadata.signed.expires for role, metadata in self.roles.items()}

    @property
    def delegated(self) -> list[str]:
        """The delegated roles, sorted."""
        return sorted(role for role in self.roles if role not in TOP_LEVEL)

    def targets(self, role: str) -> dict[str, str]:
        """Return the sha256 of every target that a role signs, by target path; none for an unknown role."""
        if role not in self.roles:
            return {}
        return {path: info.hashes["sha256"] for path, info in self.roles[role].signed.targets.items()}

    def target(self, role: str, path: str) -> str | None:
        """Return the sha256 of one target, None if the role does not sign it."""
        info = self.roles[role].signed.targets.get(path) if role in self.roles else None
        return None if info is None else str(info.hashes["sha256"])

    def read_target(self, role: str, path: str) -> bytes | None:
        """Return a target's content, None if no such one is signed; raises StorageError if it is damaged."""
        digest = self.target(role, path)
        if digest is None:
            return None
        name = target_name(path, digest)
        content = self._files.read(name)
        if hashlib.sha256(content).hexdigest() != digest:
            raise StorageError(f"{self._files}/{name} is not the file that was signed.")
        return content


def newest_root(files: StoreFiles) -> int:
    """Return the version of the newest root, found as devices find it."""
    version = 1
    while files.exists(metadata_name("root", version + 1)):
        version += 1
    return version


def metadata_name(role: str, version: int) -> str:
    """Return where a role's metadata lies in a store."""
    return TIMESTAMP_FILE if role == "timestamp" else f"metadata/{version}.{role}.json"


def target_name(path: str, digest: str) -> str:
    """Return where a target with this content lies in a store."""
    folder, _, name = path.rpartition("/")
    return f"targets/{folder}/{digest}.{name}"


def parse(content: bytes, source: str) -> Metadata[Any]:
    """Parse metadata; raises StorageError that names the source."""
    try:
        return Metadata.from_bytes(content)
    except (exceptions.RepositoryError, SecureSystemsLibError) as error:
        raise StorageError(f"{source} is damaged ({error}): restore it from a backup.") from error
