"""What the fleet's tools add to the signed timestamp for devices; other TUF clients pass over unknown fields.

TUF metadata says when it expires, not when it was signed, and nothing in it names the root that was current: a
device with a wrong clock, or one from which newer roots are withheld, could not tell.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

_SIGNED: Final = "x-edge-agent-signed"
_ROOT: Final = "x-edge-agent-root"


def timestamp_notes(now: datetime, root_version: int) -> dict[str, Any]:
    """Return the fields to add: when the timestamp is signed, and the newest root's version."""
    return {_SIGNED: now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), _ROOT: root_version}


def signed_at(timestamp: Mapping[str, Any]) -> datetime | None:
    """Return when a timestamp was signed, by its signed part; None where that does not say."""
    try:
        time = datetime.fromisoformat(timestamp[_SIGNED])
        return time.astimezone(UTC) if time.tzinfo is not None else None
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def newest_root(timestamp: Mapping[str, Any]) -> int | None:
    """Return which version of root was the newest when a timestamp was signed, None if that is not told."""
    version = timestamp.get(_ROOT)
    return version if isinstance(version, int) else None
