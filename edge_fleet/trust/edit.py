"""Changes to a store's metadata: targets first, metadata when all is signed, `timestamp.json` last.

Whatever an interrupted edit leaves behind is not part of the store, for devices and for the next edit alike.

Source: https://theupdateframework.github.io/specification/latest/.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from securesystemslib.signer import Key, Signer
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

from edge_agent.documents.errors import OperatorError, RequestError, StorageError
from edge_agent.documents.timestamp_notes import timestamp_notes
from edge_agent.policy.expiry import lifetime
from edge_fleet.keys import KeyFolder
from edge_fleet.stores.base import MissingFileError, StoreFiles
from edge_fleet.trust.contents import (
    ROOT_FILE,
    TIMESTAMP_FILE,
    TOP_LEVEL,
    Contents,
    metadata_name,
    target_name,
)
from edge_fleet.trust.signers import TrustedRole, create_signers, load_signers, sign


class Edit:
    """Changes to a store under way; targets are written at once, metadata by `commit`, timestamp last."""

    def __init__(self, files: StoreFiles, contents: Contents, keys: KeyFolder, now: datetime) -> None:
        self._files = files
        self.contents = contents
        self._roles = contents.roles
        self.keys = keys
        self.now = now.astimezone(UTC).replace(microsecond=0)
        self._changed: set[str] = set(contents.lagging)
        self._signers: dict[str, Sequence[Signer]] = {}

    def put_target(self, role: str, path: str, content: bytes) -> None:
        """Write a target and have the role sign it."""
        info = TargetFile.from_data(path, content, ["sha256"])
        self._files.write(target_name(path, info.hashes["sha256"]), content)
        if self.contents.target(role, path) != info.hashes["sha256"]:
            self._roles[role].signed.targets[path] = info
            self.renew(role)

    def drop_target(self, role: str, path: str) -> None:
        """Have the role sign a target no longer; its file stays for who reads the store right now."""
        del self._roles[role].signed.targets[path]
        self.renew(role)

    def delegate(self, role: str, pattern: str, signers: Callable[[], Sequence[Signer]]) -> None:
        """Let a role sign the targets that match the pattern, with these keys; one that is there stays.

        Raises OperatorError if the delegation is there for other keys.
        """
        if role in self._signers:
            return
        chosen = signers()
        delegations = self.delegations()
        if role not in delegations:
            delegations[role] = DelegatedRole(role, [], 1, terminating=True, paths=[pattern])
            for signer in chosen:
                self._roles["targets"].signed.add_key(signer.public_key, role)
            self._roles[role] = _unpublished(Targets())
            self.renew("targets")
            self.renew(role)
        self._signers[role] = self._trusted_of(role, chosen)

    def delegations(self) -> dict[str, DelegatedRole]:
        """Return the delegated roles by name, to be looked at or changed."""
        targets: Targets = self._roles["targets"].signed
        if targets.delegations is None:
            targets.delegations = Delegations({}, {})
        if targets.delegations.roles is None:
            raise OperatorError("The store's delegations are hash bins, which these tools did not make.")
        return targets.delegations.roles

    def renew(self, role: str) -> None:
        """Sign a role again, with a new version and expiry."""
        self._changed.add(role)

    def has_keys(self, role: str) -> bool:
        """Say whether enough of the keys that the store trusts for a role are in the folder.

        Raises OperatorError if one of them that is needed cannot be opened.
        """
        if not self.keys.has(role):
            return False
        wanted = self._trusting(role)
        return _enough(wanted, load_signers(self.keys, role, wanted))

    def mend(self) -> None:
        """Publish the roles that lag behind a root whose publishing was cut off, and nothing else."""
        if self.contents.lagging:
            self.commit()
            self.contents.lagging = frozenset()

    def commit(self) -> None:
        """Sign and write what changed: the root and then the timestamp last.

        Raises StorageError if another wrote to the store meanwhile.
        """
        if self._changed:
            self._publish(self._signed("root" in self._changed))

    def replace_root(self, root: Metadata[Root]) -> None:
        """Publish a signed root, so that at no moment devices find what does not fit together.

        Roles that get other keys are first signed by old and new ones, then the root is written, then the
        timestamp tells of it. Where the old keys are gone, devices wait for the time between these two writes.
        """
        old: Root = self._roles["root"].signed
        moved = [role for role in TOP_LEVEL[1:] if _other_keys(old, root.signed, role)]
        for role in {*moved, "snapshot", "timestamp"}:
            either = _by_either(old.roles[role], root.signed.roles[role])
            self._signers[role] = load_signers(self.keys, role, either)
            self._check_enough(root.signed, role)
        bridged = bool(moved) and all(_enough(old.roles[role], self._signers[role]) for role in moved)
        if bridged:
            self._changed |= set(moved) & {"targets"}
            self._changed.add("snapshot")
            self.commit()
        self._roles["root"] = root
        self._changed = set() if bridged else set(moved) & {"targets"}
        self._changed.add("snapshot")
        self._signers.clear()
        *others, timestamp = self._signed(with_root=False)
        self._publish([*others, ("root", to_bytes(root)), timestamp])

    def _signed(self, with_root: bool) -> list[tuple[str, bytes]]:
        """Return what is to be written, in that order; nothing is written before every key has been used."""
        delegated = sorted(self._changed - set(TOP_LEVEL))
        roles = [role for role in (*delegated, "targets") if role in self._changed]
        roles += ["snapshot", "root", "timestamp"] if with_root else ["snapshot", "timestamp"]
        return [self._sign(role) for role in roles]

    def _publish(self, written: list[tuple[str, bytes]]) -> None:
        if self._published_timestamp() != self.contents.timestamp_bytes:
            raise StorageError(
                f"{self._files} was changed by another meanwhile: nothing was published, run the command again."
            )
        *others, (_, timestamp) = written
        for role, content in others:
            self._write(role, content)
        self._copy_root()
        self._write("timestamp", timestamp)
        self.contents.timestamp_bytes = timestamp
        self._changed.clear()

    def _copy_root(self) -> None:
        """Put the newest root where new devices get it, also if a cut-off edit or damage left another there."""
        try:
            if self._files.read(ROOT_FILE) == self.contents.root_bytes:
                return
        except MissingFileError:
            pass
        self._files.write(ROOT_FILE, self.contents.root_bytes)

    def _published_timestamp(self) -> bytes:
        try:
            return self._files.read(TIMESTAMP_FILE)
        except MissingFileError:
            return b""

    def _sign(self, role: str) -> tuple[str, bytes]:
        metadata = self._roles[role]
        metadata.signed.version += 1
        metadata.signed.expires = self.now + lifetime(role)
        if role == "timestamp":
            notes = timestamp_notes(self.now, self._roles["root"].signed.version)
            metadata.signed.unrecognized_fields.update(notes)
        sign(metadata, self._trusted_signers(role))
        content = to_bytes(metadata)
        described = MetaFile.from_data(metadata.signed.version, content, ["sha256"])
        if role == "snapshot":
            self._roles["timestamp"].signed.snapshot_meta = described
        elif role not in ("root", "timestamp"):
            self._roles["snapshot"].signed.meta[f"{role}.json"] = described
        return role, content

    def _write(self, role: str, content: bytes) -> None:
        # Also before what nobody looks at yet: another may have published under that very name.
        self._files.check_lock()
        self._files.write(metadata_name(role, self._roles[role].signed.version), content)
        if role == "root":
            self.contents.root_bytes = content

    def _trusted_signers(self, role: str) -> Sequence[Signer]:
        if role not in self._signers:
            self._signers[role] = self._trusted_of(role, load_signers(self.keys, role, self._trusting(role)))
        self._check_enough(self._delegator(role), role)
        return self._signers[role]

    def _trusted_of(self, role: str, signers: Sequence[Signer]) -> list[Signer]:
        """Return those of these keys that the store trusts; raises OperatorError if it trusts none."""
        trusted = [signer for signer in signers if signer.public_key.keyid in self._trusting(role).keyids]
        if not trusted:
            raise OperatorError(
                f"The key given for '{role}' is not the one that the store trusts for it: use the key that was "
                f"there when '{role}' was first signed, or that it was last rotated to."
            )
        return trusted

    def _delegator(self, role: str) -> Root | Targets:
        signed: Root | Targets = self._roles["root" if role in TOP_LEVEL else "targets"].signed
        return signed

    def _trusting(self, role: str) -> Role:
        return self._delegator(role).get_delegated_role(role)

    def _check_enough(self, delegator: Root | Targets, role: str) -> None:
        wanted = delegator.get_delegated_role(role)
        have = {signer.public_key.keyid for signer in self._signers[role]}.intersection(wanted.keyids)
        if len(have) < wanted.threshold:
            remedy = (
                "sign it in steps, with edge-fleet rotate --proposal"
                if role == "root"
                else "use one that has all"
            )
            raise OperatorError(
                f"'{role}' needs the signatures of {wanted.threshold} keys, and the folder {self.keys.path} "
                f"has {len(have)} of them: {remedy}."
            )


def first_metadata(keys: KeyFolder, threshold: int) -> dict[str, Metadata[Any]]:
    """Return the metadata of an empty store that trusts the keys of the folder, made where there are none.

    All of its keys of `root` are trusted; `threshold` of them must sign the next root.
    """
    signers = {role: create_signers(keys, role) for role in TOP_LEVEL}
    if not 1 <= threshold <= len(signers["root"]):
        raise RequestError(
            f"The folder {keys.path} has {len(signers['root'])} keys of root, and --threshold is {threshold}: "
            "make more keys with edge-fleet keys create root.NAME."
        )
    root = Root(
        keys={key.keyid: key for made in signers.values() for key in public_keys(made)},
        roles={
            role: Role([key.keyid for key in public_keys(made)], threshold if role == "root" else 1)
            for role, made in signers.items()
        },
        consistent_snapshot=True,
    )
    return {
        "root": _unpublished(root),
        "targets": _unpublished(Targets()),
        "snapshot": _unpublished(Snapshot()),
        "timestamp": _unpublished(Timestamp()),
    }


def public_keys(signers: Sequence[Signer]) -> list[Key]:
    """Return the public parts of signers."""
    return [signer.public_key for signer in signers]


def to_bytes(metadata: Metadata[Any]) -> bytes:
    """Return metadata as it is published: without spaces, since every device fetches it."""
    return metadata.to_bytes(JSONSerializer(compact=True))


def _unpublished(signed: Signed) -> Metadata[Any]:
    """Return metadata whose first published version will be 1; tuf's constructors refuse a version of 0."""
    signed.version = 0
    return Metadata(signed)


def _other_keys(old: Root, new: Root, role: str) -> bool:
    before, after = old.roles[role], new.roles[role]
    return set(before.keyids) != set(after.keyids) or before.threshold != after.threshold


def _enough(wanted: Role, signers: Sequence[Signer]) -> bool:
    have = {signer.public_key.keyid for signer in signers}.intersection(wanted.keyids)
    return len(have) >= wanted.threshold


def _by_either(old: Role, new: Role) -> TrustedRole:
    """Return the keys of both, of which those of the new one are needed."""
    return TrustedRole(tuple({*old.keyids, *new.keyids}), new.threshold)
