"""Gives roles of a store other keys: at once where the keys are here, else by a proposal signed in steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from edge_agent.documents.errors import OperatorError, RequestError
from edge_fleet.keys import KeyFolder, KeyType
from edge_fleet.repository import TOP_LEVEL, Contents, Edit, Repository
from edge_fleet.trust.proposal import Change, Progress, Proposal, change_keys, described_roles, shortened
from edge_fleet.trust.signers import TrustedRole, load_signers, read_key


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """Whose signatures a role needs."""

    role: str
    threshold: int
    keys: tuple[str, ...]
    """Key ids, shortened."""


@dataclass(frozen=True, slots=True)
class Proposed:
    """A root that is not published yet."""

    file: str
    version: int
    expires: datetime
    roles: tuple[RoleKeys, ...]
    changes: tuple[str, ...]
    """What is different from the root before, a sentence each."""
    progress: tuple[Progress, Progress]


@dataclass(frozen=True, slots=True)
class Rotated:
    """What the store trusts now."""

    roles: tuple[RoleKeys, ...]
    root: int
    """Version of the root."""


def replacement(keys: KeyFolder, contents: Contents, role: str, kind: KeyType) -> Change:
    """Make a new key, to take the place of all that a role has."""
    wanted = trusted(contents, role)
    number = 2
    while any((keys.path / f"{role}.{number}{suffix}").exists() for suffix in (".pem", ".json")):
        number += 1
    name = f"{role}.{number}" if keys.has(role) else role
    keys.create(name, kind)
    return Change(add=(read_key(keys, name),), remove=tuple(wanted.keyids), threshold=1)


def propose(contents: Contents, role: str, change: Change, now: datetime) -> Proposal:
    """Return the next root, in which a role has other keys; raises RequestError for a delegated role."""
    check_in_root(role)
    return Proposal.make(contents.roles["root"], role, change, now)


def check_in_root(role: str) -> None:
    """Raise RequestError for a role whose keys no root tells."""
    if role not in TOP_LEVEL:
        raise RequestError(f"'{role}' is trusted by targets, not by root: leave --proposal out.")


def rotate(repository: Repository, keys: KeyFolder, role: str, change: Change, now: datetime) -> Rotated:
    """Give a role other keys and publish that; the keys that must sign are all in the folder.

    Raises TrustError or OperatorError if they are not; then the store is as it was.
    """
    with repository.editing(keys, now) as edit:
        return _rotate(edit, role, change)


def rotate_to_new_key(
    repository: Repository, keys: KeyFolder, role: str, kind: KeyType, now: datetime
) -> Rotated:
    """Give a role a new key and publish that; makes none if a key that must sign is not in the folder."""
    with repository.editing(keys, now) as edit:
        trusted(edit.contents, role)
        delegator = "root" if role in TOP_LEVEL else "targets"
        for signing in (delegator, *sorted({"snapshot", "timestamp"} - {role})):
            _check_keys(keys, edit.contents, signing)
        return _rotate(edit, role, replacement(keys, edit.contents, role, kind))


def _rotate(edit: Edit, role: str, change: Change) -> Rotated:
    if role in TOP_LEVEL:
        proposal = propose(edit.contents, role, change, edit.now)
        proposal.sign(load_signers(edit.keys, "root", proposal.either))
        edit.replace_root(proposal.complete())
        return _rotated(edit, TOP_LEVEL)
    trusted(edit.contents, role)
    change_keys(edit.contents.roles["targets"].signed, role, change)
    edit.renew("targets")
    edit.renew(role)
    return _rotated(edit, (role,))


def _check_keys(keys: KeyFolder, contents: Contents, role: str) -> None:
    """Raise OperatorError unless enough keys of a role are in the folder and can be opened."""
    wanted = trusted(contents, role)
    have = {signer.public_key.keyid for signer in load_signers(keys, role, wanted)}
    if len(have) < wanted.threshold:
        raise OperatorError(
            f"No key was made: '{role}' must sign with {wanted.threshold} keys that the store trusts, and "
            f"{keys.path} has {len(have)} of them; add them"
            + (", or have it signed in steps, with --proposal." if role == "root" else ".")
        )


def apply(repository: Repository, proposal: Proposal, keys: KeyFolder, now: datetime) -> Rotated:
    """Publish a root that has all its signatures.

    Raises TrustError if some lack, RequestError if the store has another root than the proposal follows.
    """
    root = proposal.complete()
    with repository.editing(keys, now) as edit:
        if edit.contents.roles["root"].signed != proposal.previous.signed:
            raise RequestError(
                f"The proposal follows root {proposal.previous.signed.version}, and the store has another one "
                f"({edit.contents.roles['root'].signed.version}): propose the change again."
            )
        edit.replace_root(root)
        return _rotated(edit, TOP_LEVEL)


def _rotated(edit: Edit, roles: Sequence[str]) -> Rotated:
    shown = tuple(role_keys(edit.contents, role) for role in roles)
    return Rotated(shown, edit.contents.roles["root"].signed.version)


def describe(proposal: Proposal, file: str) -> Proposed:
    """Return what a proposal says, for who is to sign it."""
    old, new = described_roles(proposal.previous.signed), described_roles(proposal.proposed.signed)
    later = proposal.proposed.signed.expires > proposal.previous.signed.expires
    changes = []
    for role, (threshold, keyids) in new.items():
        added, removed = set(keyids).difference(old[role][1]), set(old[role][1]).difference(keyids)
        changes += [f"{role} trusts {shortened(keyid)} as well" for keyid in sorted(added)]
        changes += [f"{role} trusts {shortened(keyid)} no longer" for keyid in sorted(removed)]
        if threshold != old[role][0]:
            changes.append(f"{role} needs {threshold} signatures instead of {old[role][0]}")
    return Proposed(
        file=file,
        version=proposal.proposed.signed.version,
        expires=proposal.proposed.signed.expires,
        roles=tuple(
            RoleKeys(role, threshold, tuple(map(shortened, keyids)))
            for role, (threshold, keyids) in new.items()
        ),
        changes=tuple(changes) or (f"only its expiry is {'later' if later else 'not later'}",),
        progress=proposal.progress,
    )


def trusted(contents: Contents, role: str) -> TrustedRole:
    """Return keys and threshold of a role; raises RequestError if the store has no such role."""
    if role not in contents.roles:
        raise RequestError(f"'{role}' is no role of this store; it has {', '.join(sorted(contents.roles))}.")
    delegator = contents.roles["root" if role in TOP_LEVEL else "targets"].signed
    wanted = delegator.get_delegated_role(role)
    return TrustedRole(tuple(wanted.keyids), wanted.threshold)


def role_keys(contents: Contents, role: str) -> RoleKeys:
    """Return the same to be shown."""
    wanted = trusted(contents, role)
    return RoleKeys(role, wanted.threshold, tuple(sorted(map(shortened, wanted.keyids))))
