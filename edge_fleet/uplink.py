"""Reads what devices publish: bytes and a topic become a validated document, or one sentence that says why not.

Pure. Devices are not trusted: what passes here fits into the database and can be read back.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from pydantic import TypeAdapter, ValidationError

from edge_agent.documents.errors import DocumentError
from edge_agent.documents.messages import AbMessage, EventMessage, MetricsMessage, Reported
from edge_agent.documents.topics import Topics

_SQLITE_MAX: Final = 2**63 - 1
_ADAPTERS: Final[dict[str, TypeAdapter[Any]]] = {
    "reported": TypeAdapter(Reported),
    "event": TypeAdapter(EventMessage),
    "metrics": TypeAdapter(MetricsMessage),
    "ab": TypeAdapter(AbMessage),
}
_IGNORED: Final = frozenset({"res", "outcomes"})
"""Replies and raw rows: not the collector's."""


@dataclass(frozen=True, slots=True)
class Status:
    """Whether a device is connected, from `up/status`."""

    online: bool


Document = Status | Reported | EventMessage | MetricsMessage | AbMessage


def parse_device(topics: Topics, topic: str) -> str | None:
    """Return the device that publishes on a topic, or None if no device can."""
    parsed = topics.parse_up(topic)
    return None if parsed is None else parsed[0]


def read_message(topics: Topics, topic: str, payload: bytes) -> Document | None:
    """Return what a device says; None for what is not collected. Raises DocumentError if it is invalid."""
    parsed = topics.parse_up(topic)
    if parsed is None:
        raise DocumentError("the topic is not one of a device's")
    device, levels = parsed
    kind = levels[0]
    if kind in _IGNORED:
        return None
    if kind == "status" and len(levels) == 1:
        return _status(payload)
    if kind not in _ADAPTERS or len(levels) != (2 if kind in ("event", "ab") else 1):
        raise DocumentError("nothing is expected on this topic")
    document: Document = _validate(_ADAPTERS[kind], payload)
    _check_topic(document, device, levels)
    _check_numbers(document)
    return document


def _status(payload: bytes) -> Status:
    match payload.strip(b'"'):
        case b"online":
            return Status(online=True)
        case b"offline":
            return Status(online=False)
    raise DocumentError("the status is neither online nor offline")


def _validate(adapter: TypeAdapter[Any], payload: bytes) -> Any:
    try:
        document = adapter.validate_json(payload)
        # What is stored must be readable again: infinities, lone surrogates and numbers of 80 digits are not.
        return msgspec.json.decode(msgspec.json.encode(document), type=type(document))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DocumentError(f"{place + ': ' if place else ''}{first['msg']}") from error
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise DocumentError(f"{error}") from error


def _check_topic(document: Document, device: str, levels: tuple[str, ...]) -> None:
    """What a document says of itself must be what its topic says, which is what the broker's rules protect."""
    match document:
        case Reported():
            told, expected = document.device, device
        case EventMessage():
            told, expected = document.event.type, levels[1]
        case AbMessage():
            told, expected = document.experiment, levels[1]
        case _:
            return
    if told != expected:
        raise DocumentError(f"'{told[:64]}' is published on the topic of '{expected}'")


def _check_numbers(document: Document) -> None:
    match document:
        case Reported():
            numbers = [document.serial, document.target_serial or 0]
        case EventMessage():
            numbers = [document.event.serial or 0]
        case AbMessage():
            numbers = [document.revision, document.epoch, document.part, *document.exposures.values()]
            numbers += [number for row in document.sums for number in (row.bucket, row.n)]
        case _:
            return
    if not all(0 <= number <= _SQLITE_MAX for number in numbers):
        raise DocumentError("a count is negative or too large")
