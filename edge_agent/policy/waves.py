"""Which devices run the candidate of a rollout."""

import hashlib
from datetime import datetime

from edge_agent.documents.deployment import Deployment, Rollout


def position(salt: str, device: str) -> float:
    """Return where the device stands in a rollout, in [0, 100): a keyed hash of salt and device id.

    Uniform over devices and independent between salts, so that a new salt picks other devices first. The hash
    is BLAKE2b keyed with the salt (RFC 7693); a salt longer than a BLAKE2b key is hashed first.
    """
    key = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    digest = hashlib.blake2b(device.encode(), digest_size=8, key=key).digest()
    # 53 bits fill a double's mantissa, so that the quotient cannot be rounded up to 100.
    return (int.from_bytes(digest) >> 11) / 2**53 * 100


def share(rollout: Rollout, now: datetime) -> float:
    """Return the percentage of devices that run the candidate now; `now` is aware of its time zone."""
    due = [wave.percentage for wave in rollout.waves if _aware(wave.not_before, now) <= now]
    return max([rollout.percentage, *due])


def in_rollout(rollout: Rollout, device: str, now: datetime) -> bool:
    """Say whether the device runs the candidate now. A device that is in stays in while the share grows."""
    return position(rollout.salt, device) < share(rollout, now)


def next_wave_s(deployment: Deployment, now: datetime) -> float | None:
    """Return when the next wave that is still to come is due, Unix time, or None."""
    if deployment.candidate is None:
        return None
    times = [_aware(wave.not_before, now) for wave in deployment.candidate.rollout.waves]
    return min((time.timestamp() for time in times if time > now), default=None)


def _aware(time: datetime, now: datetime) -> datetime:
    return time if time.tzinfo is not None else time.replace(tzinfo=now.tzinfo)
