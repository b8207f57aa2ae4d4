"""How long the roles of the store's metadata live, and when to speak up about it."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from edge_agent.policy.trusted_time import Times

_LIFETIMES: Final = {
    "root": timedelta(days=365),
    "targets": timedelta(days=90),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=7),
}


def lifetime(role: str) -> timedelta:
    """Return how long a newly signed role is valid; delegated roles live as long as `targets`."""
    return _LIFETIMES.get(role, _LIFETIMES["targets"])


def is_due(role: str, expires: datetime, now: datetime) -> bool:
    """Say whether less than a third of the role's life is left: time to sign it again."""
    return expires - now < lifetime(role) / 3


def warnings(expires_s: Mapping[str, float], times: Times) -> tuple[str, ...]:
    """Return a sentence for each role that is due or has expired, the first to expire first; Unix times."""
    sentences, now = [], times.now
    for role, time_s in sorted(expires_s.items(), key=lambda item: (item[1], item[0])):
        expires = datetime.fromtimestamp(time_s, UTC)
        if expires <= now:
            sentences.append(
                f"The store's {role} metadata expired on {expires:%Y-%m-%d %H:%M} UTC: what runs goes on, but "
                f"nothing new is trusted until the store is refreshed ({remedy(role)}); if that date is still "
                f"to come, {times.remedy}."
            )
        elif is_due(role, expires, now):
            sentences.append(
                f"The store's {role} metadata expires on {expires:%Y-%m-%d %H:%M} UTC: refresh the store "
                f"({remedy(role)})."
            )
    return tuple(sentences)


def remedy(role: str) -> str:
    """Return the command that signs a role again."""
    online = ("timestamp", "snapshot", "deployments")
    return "edge-fleet refresh" if role in online else "edge-fleet refresh --all"
