"""A next root on its way: signed in steps on separate machines, none of which needs the store.

A proposal is a file with the root that is and the one that shall be. It is valid once enough keys of both have
signed: of the old one so that devices accept the change, of the new one so that its keys are known to exist.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from securesystemslib.exceptions import Error as SecureSystemsLibError
from securesystemslib.signer import Key, Signer
from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root

from edge_agent.documents.errors import OperatorError, RequestError, TrustError
from edge_agent.policy.expiry import lifetime
from edge_agent.store.files import write_atomically
from edge_fleet.trust.contents import TOP_LEVEL
from edge_fleet.trust.roots import check_succession, read_root
from edge_fleet.trust.signers import TrustedRole, sign

_SCHEMA: Final = "edge-fleet/root-proposal/1"
_NO_PROPOSAL: Final = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    exceptions.RepositoryError,
    SecureSystemsLibError,
)
"""How a file of another kind shows."""
_SHOWN: Final = 12
"""How much of a key id is shown; any part that is unique names a key."""


@dataclass(frozen=True, slots=True)
class Change:
    """Which keys a role shall have."""

    add: tuple[Key, ...] = ()
    remove: tuple[str, ...] = ()
    """Key ids, or beginnings of them."""
    threshold: int | None = None
    """None keeps it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one of the two thresholds is."""

    whose: str
    """`old` or `new`."""
    threshold: int
    signed: tuple[str, ...]
    """Key ids, shortened."""
    missing: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Say whether the threshold is met."""
        return len(self.signed) >= self.threshold


class Proposal:
    """The root that shall follow, and the one that it follows."""

    def __init__(self, previous: Metadata[Root], proposed: Metadata[Root]) -> None:
        self.previous = previous
        self.proposed = proposed

    @classmethod
    def make(cls, previous: Metadata[Root], role: str, change: Change, now: datetime) -> Self:
        """Propose other keys for a role; raises RequestError for a change that makes no sense."""
        root = copy.deepcopy(previous.signed)
        change_keys(root, role, change)
        root.version += 1
        root.expires = now.replace(microsecond=0) + lifetime("root")
        return cls(previous, Metadata(root))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a proposal's file; raises RequestError, or TrustError if no honest tool made it."""
        try:
            document = json.loads(path.read_bytes())
            if document["schema"] != _SCHEMA:
                raise RequestError(f"{path} was made by a newer edge-fleet: update this one.")
            proposal = cls(*(_root_of(document[name]) for name in ("previous", "proposed")))
        except OSError as error:
            raise RequestError(f"The proposal {path} cannot be read: {error.strerror}.") from error
        except _NO_PROPOSAL as error:
            message = f"{path} is not a proposal: make one with edge-fleet rotate --proposal."
            raise RequestError(message) from error
        proposal.check_succession()
        return proposal

    def write(self, path: Path) -> None:
        """Write the proposal's file."""
        document = {
            "schema": _SCHEMA,
            "previous": self.previous.to_dict(),
            "proposed": self.proposed.to_dict(),
        }
        write_atomically(path, json.dumps(document, indent=2).encode())

    def sign(self, signers: Sequence[Signer]) -> tuple[str, ...]:
        """Sign with those keys that count, return their ids, shortened; raises OperatorError if none does."""
        counting = [signer for signer in signers if signer.public_key.keyid in self.either.keyids]
        if not counting:
            raise OperatorError(
                f"None of these keys of 'root' counts for version {self.proposed.signed.version}: neither the "
                "old root nor the new one has them."
            )
        sign(self.proposed, counting, append=True)
        return tuple(shortened(signer.public_key.keyid) for signer in counting)

    def merge(self, other: Self) -> None:
        """Take over the signatures of a copy that was signed elsewhere; raises RequestError if it is none."""
        if self.proposed.signed != other.proposed.signed or self.previous.signed != other.previous.signed:
            raise RequestError("These files propose different roots: give copies of one proposal.")
        self.proposed.signatures.update(other.proposed.signatures)

    def check_follows(self, path: Path) -> None:
        """Raise TrustError unless the root before is the one of this file, which who signs has from elsewhere.

        What a proposal changes is told by comparing, so a forged old root would hide a change.
        """
        if read_root(path) != self.previous.signed:
            raise TrustError(
                f"The proposal does not follow the root of {path}: do not sign it, and ask who sent it."
            )

    def check_succession(self) -> None:
        """Raise TrustError if the roots differ in what nobody is told of."""
        check_succession(self.previous.signed, self.proposed.signed)

    @property
    def progress(self) -> tuple[Progress, Progress]:
        """How far the thresholds of old and new root are; signatures that do not hold count as missing."""
        return self._progress("old", self.previous.signed), self._progress("new", self.proposed.signed)

    def check_complete(self) -> None:
        """Raise TrustError unless both thresholds are met."""
        for progress in self.progress:
            if not progress.done:
                lacking = progress.threshold - len(progress.signed)
                raise TrustError(
                    f"Root {self.proposed.signed.version} lacks {lacking} of {progress.threshold} signatures "
                    f"by keys of the {progress.whose} root ({', '.join(progress.missing)}): have it signed "
                    "with edge-fleet sign."
                )

    def complete(self) -> Metadata[Root]:
        """Return the root to publish, without signatures that do not count.

        Raises TrustError if some lack, or if the roots differ in what nobody was told of.
        """
        self.check_succession()
        self.check_complete()
        counting = self.either.keyids
        signatures = {keyid: made for keyid, made in self.proposed.signatures.items() if keyid in counting}
        return Metadata(copy.deepcopy(self.proposed.signed), signatures)

    @property
    def either(self) -> TrustedRole:
        """The keys of the old root and of the new one, and how many signatures it takes at least."""
        old, new = (metadata.signed.roles["root"] for metadata in (self.previous, self.proposed))
        return TrustedRole(tuple({*old.keyids, *new.keyids}), max(old.threshold, new.threshold))

    def _progress(self, whose: str, root: Root) -> Progress:
        result = root.get_verification_result("root", self.proposed.signed_bytes, self.proposed.signatures)
        return Progress(
            whose=whose,
            threshold=result.threshold,
            signed=tuple(sorted(map(shortened, result.signed))),
            missing=tuple(sorted(map(shortened, result.unsigned))),
        )


def _root_of(document: dict[str, Any]) -> Metadata[Root]:
    metadata: Metadata[Root] = Metadata.from_dict(document)
    if not isinstance(metadata.signed, Root):
        raise TypeError(metadata.signed.type)
    return metadata


def change_keys(delegator: Any, role: str, change: Change) -> None:
    """Give a role of a root or of targets other keys; raises RequestError for a change that makes no sense."""
    wanted = delegator.get_delegated_role(role)
    for start in change.remove:
        delegator.revoke_key(full_keyid(wanted.keyids, start, role), role)
    for key in change.add:
        delegator.add_key(key, role)
    if change.threshold is not None:
        wanted.threshold = change.threshold
    if not 1 <= wanted.threshold <= len(wanted.keyids):
        raise RequestError(
            f"'{role}' would have {len(wanted.keyids)} keys and need {wanted.threshold} of them: give a "
            "--threshold that can be met."
        )


def full_keyid(keyids: Sequence[str], start: str, role: str) -> str:
    """Return the one key id that begins so; raises RequestError."""
    found = [keyid for keyid in keyids if keyid.startswith(start)]
    if len(found) != 1:
        raise RequestError(
            f"{len(found)} keys of '{role}' begin with {start}: they are {', '.join(map(shortened, keyids))}."
        )
    return found[0]


def shortened(keyid: str) -> str:
    """Return enough of a key id to tell it from others."""
    return keyid[:_SHOWN]


def described_roles(root: Root) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Return threshold and full key ids of each role of a root."""
    return {role: (root.roles[role].threshold, tuple(sorted(root.roles[role].keyids))) for role in TOP_LEVEL}
