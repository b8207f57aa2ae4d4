"""The store's signed metadata: TUF with consistent snapshots, in a folder of static files.

The one module of the fleet tools that touches tuf and securesystemslib. What is current is found from
`timestamp.json` downwards, never by listing files, and `timestamp.json` is written last: whatever an
interrupted edit leaves behind is not part of the store, for devices and for the next edit alike.

Source: https://theupdateframework.github.io/specification/latest/.
"""

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from securesystemslib.exceptions import Error as SecureSystemsLibError
from securesystemslib.signer import CryptoSigner
from tuf.api import exceptions
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edge_agent.documents.deployment import GROUPS_TARGET, Groups
from edge_agent.documents.errors import NotFoundError, OperatorError, StorageError
from edge_agent.documents.timestamp_notes import timestamp_notes
from edge_agent.policy.expiry import lifetime
from edge_agent.store.files import mapping_os_errors, write_atomically
from edge_fleet.keys import KeyFolder, PrivateKey

TOP_LEVEL: Final = ("root", "targets", "snapshot", "timestamp")
DEPLOYMENTS: Final = "deployments"
ONLINE: Final = ("timestamp", "snapshot", DEPLOYMENTS)
"""Roles whose keys are where refreshing happens; the others' may be kept offline."""


class Repository:
    """A store's signed part. Reads at any time; writes inside `editing`."""

    def __init__(self, store: Path) -> None:
        self.store = store

    @property
    def root_file(self) -> Path:
        """A copy of the newest root, for devices to start from."""
        return self.store / "root.json"

    def exists(self) -> bool:
        """Say whether this folder is a store."""
        return (self._metadata / "timestamp.json").is_file()

    def read(self) -> "Contents":
        """Return what the store holds now; raises NotFoundError if this folder is no store."""
        self._check_exists()
        timestamp: Metadata[Timestamp] = _load(self._metadata / "timestamp.json")
        snapshot: Metadata[Snapshot] = self._load("snapshot", timestamp.signed.snapshot_meta.version)
        roles: dict[str, Metadata[Any]] = {
            "root": _load(self._newest_root()),
            "timestamp": timestamp,
            "snapshot": snapshot,
        }
        for name, meta in snapshot.signed.meta.items():
            role = name.removesuffix(".json")
            roles[role] = self._load(role, meta.version)
        return Contents(self.store, roles)

    @contextmanager
    def editing(self, keys: KeyFolder, now: datetime) -> Iterator["Edit"]:
        """Lock the store and change it: what was changed is signed and published when the block ends."""
        self._check_exists()
        keys.check_outside(self.store)
        with self._locked():
            edit = Edit(self, self.read(), keys, now)
            yield edit
            edit.commit()

    def create(self, keys: KeyFolder, now: datetime) -> None:
        """Make a new, empty store, and the keys that are not there yet."""
        keys.check_outside(self.store)
        with mapping_os_errors(self.store):
            self._metadata.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if self.exists():
                raise OperatorError(
                    f"{self.store} is a store already: publish to it, or choose another folder."
                )
            edit = Edit(self, Contents(self.store, _first_metadata(keys)), keys, now)
            edit.renew("root")
            edit.renew("targets")
            edit.delegate(DEPLOYMENTS, "deployments/*", keys.load_or_create(DEPLOYMENTS))
            edit.put_target(DEPLOYMENTS, GROUPS_TARGET, Groups().model_dump_json(by_alias=True).encode())
            edit.commit()

    def write_metadata(self, role: str, version: int, content: bytes) -> None:
        """Write one role's metadata durably."""
        name = "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"
        write_atomically(self._metadata / name, content)
        if role == "root":
            write_atomically(self.root_file, content)

    @property
    def _metadata(self) -> Path:
        return self.store / "metadata"

    def _check_exists(self) -> None:
        if not self.exists():
            raise NotFoundError(f"{self.store} is not a store: create it with edge-fleet init.")

    def _load(self, role: str, version: int) -> Metadata[Any]:
        return _load(self._metadata / f"{version}.{role}.json")

    def _newest_root(self) -> Path:
        version = 1
        while (self._metadata / f"{version + 1}.root.json").is_file():
            version += 1
        return self._metadata / f"{version}.root.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store against other writers; waits for them."""
        with mapping_os_errors(self.store):
            file = (self.store / ".lock").open("a")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class Contents:
    """The metadata of every role of a store, by role."""

    def __init__(self, store: Path, roles: dict[str, Metadata[Any]]) -> None:
        self._store = store
        self.roles = roles

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

    def read_target(self, role: str, path: str) -> bytes | None:
        """Return a target's content, None if no such one is signed; raises StorageError if it is damaged."""
        digest = self.targets(role).get(path)
        if digest is None:
            return None
        file = target_file(self._store, path, digest)
        try:
            content = file.read_bytes()
        except OSError as error:
            raise StorageError(f"The store lacks the signed file {file}: {error.strerror}.") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise StorageError(f"The store's file {file} is not the one that was signed.")
        return content


class Edit:
    """Changes to a store under way; targets are written at once, metadata by `commit`, timestamp last."""

    def __init__(self, repository: Repository, contents: Contents, keys: KeyFolder, now: datetime) -> None:
        self._repository = repository
        self.contents = contents
        self._roles = contents.roles
        self._keys = keys
        self._now = now.astimezone(UTC).replace(microsecond=0)
        self._changed: set[str] = set()
        self._signers: dict[str, CryptoSigner] = {}

    def put_target(self, role: str, path: str, content: bytes) -> None:
        """Write a target and have the role sign it."""
        info = TargetFile.from_data(path, content, ["sha256"])
        file = target_file(self._repository.store, path, info.hashes["sha256"])
        with mapping_os_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
        if self.contents.targets(role).get(path) != info.hashes["sha256"]:
            self._roles[role].signed.targets[path] = info
            self.renew(role)

    def delegate(self, role: str, pattern: str, key: PrivateKey) -> None:
        """Let a role sign the targets that match the pattern, with this key; keeps a delegation that is there.

        Raises OperatorError if the delegation is there for another key.
        """
        signer = CryptoSigner(key)
        targets: Targets = self._roles["targets"].signed
        if targets.delegations is None:
            targets.delegations = Delegations({}, {})
        roles = targets.delegations.roles
        if roles is None:
            raise OperatorError("The store's delegations are hash bins, which these tools did not make.")
        if role not in roles:
            roles[role] = DelegatedRole(role, [], 1, terminating=True, paths=[pattern])
            targets.add_key(signer.public_key, role)
            self._roles[role] = _unpublished(Targets())
            self.renew("targets")
            self.renew(role)
        self._check_signer(role, signer)
        self._signers[role] = signer

    def renew(self, role: str) -> None:
        """Sign a role again, with a new version and expiry."""
        self._changed.add(role)

    def commit(self) -> None:
        """Sign and write what changed: delegated roles first, then targets, root, snapshot, timestamp."""
        if not self._changed:
            return
        delegated = sorted(self._changed - set(TOP_LEVEL))
        signed = [role for role in (*delegated, "targets", "root") if role in self._changed]
        # Every key is looked up before anything is written.
        for role in (*signed, "snapshot", "timestamp"):
            self._signer(role)
        for role in signed:
            self._publish(role)
        self._publish("snapshot")
        self._publish("timestamp")
        self._changed.clear()

    def _publish(self, role: str) -> None:
        metadata = self._roles[role]
        metadata.signed.version += 1
        metadata.signed.expires = self._now + lifetime(role)
        if role == "timestamp":
            notes = timestamp_notes(self._now, self._roles["root"].signed.version)
            metadata.signed.unrecognized_fields.update(notes)
        metadata.sign(self._signer(role))
        content = metadata.to_bytes(JSONSerializer(compact=True))
        self._repository.write_metadata(role, metadata.signed.version, content)
        described = MetaFile.from_data(metadata.signed.version, content, ["sha256"])
        if role == "snapshot":
            self._roles["timestamp"].signed.snapshot_meta = described
        elif role not in ("root", "timestamp"):
            self._roles["snapshot"].signed.meta[f"{role}.json"] = described

    def _signer(self, role: str) -> CryptoSigner:
        if role not in self._signers:
            signer = CryptoSigner(self._keys.load(role))
            self._check_signer(role, signer)
            self._signers[role] = signer
        return self._signers[role]

    def _check_signer(self, role: str, signer: CryptoSigner) -> None:
        delegator = self._roles["root" if role in TOP_LEVEL else "targets"].signed
        if signer.public_key.keyid not in delegator.get_delegated_role(role).keyids:
            raise OperatorError(
                f"The key given for '{role}' is not the one that the store trusts for it: use the key that was "
                f"there when '{role}' was first signed."
            )


def _first_metadata(keys: KeyFolder) -> dict[str, Metadata[Any]]:
    signers = {role: CryptoSigner(keys.load_or_create(role)) for role in TOP_LEVEL}
    root = Root(
        keys={signer.public_key.keyid: signer.public_key for signer in signers.values()},
        roles={role: Role([signer.public_key.keyid], 1) for role, signer in signers.items()},
        consistent_snapshot=True,
    )
    return {
        "root": _unpublished(root),
        "targets": _unpublished(Targets()),
        "snapshot": _unpublished(Snapshot()),
        "timestamp": _unpublished(Timestamp()),
    }


def _unpublished(signed: Signed) -> Metadata[Any]:
    """Return metadata whose first published version will be 1; tuf's constructors refuse a version of 0."""
    signed.version = 0
    return Metadata(signed)


def target_file(store: Path, path: str, digest: str) -> Path:
    """Return where a target with this content lies in a store."""
    folder, _, name = path.rpartition("/")
    return store / "targets" / folder / f"{digest}.{name}"


def _load(path: Path) -> Metadata[Any]:
    try:
        return Metadata.from_bytes(path.read_bytes())
    except OSError as error:
        raise StorageError(f"The store's {path} cannot be read: {error.strerror}.") from error
    except (exceptions.RepositoryError, SecureSystemsLibError) as error:
        raise StorageError(f"The store's {path} is damaged ({error}): restore it from a backup.") from error
