"""Signs metadata again before it expires."""

from dataclasses import dataclass
from datetime import datetime

from edge_agent.policy.expiry import is_due, warnings
from edge_agent.policy.trusted_time import Times
from edge_fleet.keys import KeyFolder
from edge_fleet.repository import DEPLOYMENTS, Repository


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What was signed again, and what still has to be."""

    renewed: tuple[str, ...]
    left: tuple[str, ...]
    """Roles that were asked for, and whose keys are not all in the folder."""
    expires: dict[str, datetime]
    """When each role expires now."""
    warnings: tuple[str, ...]


def refresh(repository: Repository, keys: KeyFolder, now: datetime, everything: bool = False) -> Refreshed:
    """Sign timestamp and snapshot again, and `deployments` once it is in the last third of its life.

    With `everything` so is every role whose keys are in the folder, also those that lag behind a root whose
    publishing was cut off.
    """
    with repository.editing(keys, now, mending=everything) as edit:
        edit.mend()
        expires = edit.contents.expires
        roles = {"snapshot", "timestamp"}
        others = set(expires) - roles
        if everything:
            roles |= {role for role in others if edit.has_keys(role)}
        elif is_due(DEPLOYMENTS, expires[DEPLOYMENTS], now):
            roles.add(DEPLOYMENTS)
        for role in roles:
            edit.renew(role)
    expires = repository.read().expires
    sentences = warnings({role: time.timestamp() for role, time in expires.items()}, Times(now))
    left = tuple(sorted(others - roles)) if everything else ()
    return Refreshed(tuple(sorted(roles)), left, expires, sentences)
