"""Prediction ids: an answer's name, which says by itself what an outcome must be counted for.

An outcome may come days and restarts after its prediction; no table remembers what was answered. So the id
holds it, with a keyed MAC, so that only ids which this device gave out are taken. The text is base64url without
padding of, in network byte order:

    1 byte    format version, 1
    4 bytes   epoch of the experiment
    1 byte    bucket of the unit
    4 bytes   time of the prediction, Unix seconds
    8 bytes   nonce
    1+n bytes length of the model's name, and the name
    1+n bytes the same of the experiment, empty where its name is the model's
    n bytes   the arm's name
    8 bytes   MAC: BLAKE2b (RFC 7693) keyed with the device's secret over all before it

That is 40 to 100 characters for usual names, and 294 at most. A forger has one chance in 2^64 for each try.
"""

import base64
import hashlib
import hmac
import re
import struct
from functools import lru_cache
from typing import Final

import msgspec

from edge_agent.documents.errors import RequestError

NONCE_BYTES: Final = 8

_FORMAT: Final = 1
_HEAD: Final = struct.Struct(">BIBI8s")
_MAC_BYTES: Final = 8
_PURPOSE: Final = b"prediction id"
"""Keeps these MACs apart from others with the same secret."""

_TEXT: Final = re.compile(r"[A-Za-z0-9_-]{32,300}")
_REFUSAL: Final = "The prediction id is not one that this device gave out; send it back as the answer had it."


class Prediction(msgspec.Struct, frozen=True):
    """What is known of an answer from its id alone."""

    model: str
    experiment: str
    """The experiment's name; the model's where there was none."""
    epoch: int
    """The experiment's epoch; 0 where there was none."""
    arm: str
    """The arm's name, or `fallback` or `direct`."""
    bucket: int
    """Bucket of the unit, 0 to 63."""
    time_s: int
    """When it was answered, Unix time."""
    nonce: bytes
    """8 random bytes: no two predictions of a device have the same."""


def encode(secret: bytes, prediction: Prediction) -> str:
    """Return the id of a prediction; `secret` is the device's, 1 to 64 bytes."""
    content = _HEAD.pack(
        _FORMAT, prediction.epoch, prediction.bucket, prediction.time_s, prediction.nonce
    ) + _names(prediction.model, prediction.experiment, prediction.arm)
    return base64.urlsafe_b64encode(content + _mac(secret, content)).rstrip(b"=").decode()


def decode(secret: bytes, text: str) -> Prediction:
    """Return the prediction that an id names; raises RequestError for one that this device did not give out."""
    if not _TEXT.fullmatch(text):
        raise RequestError(_REFUSAL)
    padded = text + "=" * (-len(text) % 4)
    try:
        whole = base64.urlsafe_b64decode(padded)
    except ValueError as error:
        raise RequestError(_REFUSAL) from error
    content, mac = whole[:-_MAC_BYTES], whole[-_MAC_BYTES:]
    # Compared as text, too: base64 has several forms for the same bytes, and only one of them was given out.
    is_canonical = base64.urlsafe_b64encode(whole).decode() == padded
    if not hmac.compare_digest(mac, _mac(secret, content)) or not is_canonical or content[0] != _FORMAT:
        raise RequestError(_REFUSAL)
    return _read(content)


@lru_cache(maxsize=256)
def _names(model: str, experiment: str, arm: str) -> bytes:
    """Return the names as they stand in an id; a device has few of them."""
    first = model.encode()
    second = b"" if experiment == model else experiment.encode()
    return b"".join((bytes((len(first),)), first, bytes((len(second),)), second, arm.encode()))


def _mac(secret: bytes, content: bytes) -> bytes:
    keyed = _keyed(secret).copy()
    keyed.update(content)
    return keyed.digest()


@lru_cache(maxsize=4)
def _keyed(secret: bytes) -> "hashlib.blake2b":
    """Return the hash with nothing but the key in it, which takes as long as a whole id: a device has one."""
    return hashlib.blake2b(key=secret, person=_PURPOSE, digest_size=_MAC_BYTES)


def _read(content: bytes) -> Prediction:
    """Read what the MAC has shown to be of our own making."""
    _, epoch, bucket, time_s, nonce = _HEAD.unpack_from(content)
    model, rest = _take(content[_HEAD.size :])
    experiment, rest = _take(rest)
    return Prediction(model, experiment or model, epoch, rest.decode(), bucket, time_s, nonce)


def _take(content: bytes) -> tuple[str, bytes]:
    """Split off a name that its length stands before."""
    end = 1 + content[0]
    return content[1:end].decode(), content[end:]
