"""Collects what the fleet's devices publish into a database, until it is told to stop.

A message is acknowledged after the transaction that holds it: whatever happens to this process, the broker
keeps what is not stored and sends it again, and storing it twice changes nothing.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, time

from edge_agent.documents.errors import DocumentError
from edge_agent.documents.topics import Topics
from edge_fleet.broker import Message, Subscription, wait_until_connected
from edge_fleet.broker_options import BrokerSettings
from edge_fleet.fleet_db import FleetDb, Received
from edge_fleet.uplink import parse_device, read_message

log = logging.getLogger(__name__)

BATCH = 500
"""Messages in one transaction, at most."""
_WAIT_S = 0.2
_TELL_EVERY_S = 1.0
_CONNECT_S = 10.0
_NAMED_DEVICES = 10_000
"""Devices whose first invalid message is logged in one run, so that memory stays bounded."""


@dataclass(frozen=True, slots=True)
class Until:
    """When to stop, beside being told to; None means never."""

    seconds: float | None = None
    quiet_s: float | None = None
    """Seconds without a message, once connected."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one run has done so far, and what the database holds."""

    connected: bool
    messages: int
    new: int
    """Messages that changed the database; the others were seen before."""
    foreign: int
    """Messages that are of no device."""
    devices: int
    online: int
    events: int
    sums: int
    invalid: int


class Collector:
    """One run of the collector."""

    def __init__(self, db: FleetDb, topics: Topics) -> None:
        self._db = db
        self._topics = topics
        self._named: set[str] = set()
        self.messages = self.new = self.foreign = 0

    def take(self, batch: Sequence[Message], now_s: float) -> None:
        """Store a batch of messages in one transaction; raises StorageError, with nothing stored."""
        received = [found for message in batch if (found := self._read(message, now_s)) is not None]
        self.new += self._db.store(received)
        self.messages += len(batch)

    def progress(self, connected: bool) -> Progress:
        """Return what was done so far."""
        return Progress(connected, self.messages, self.new, self.foreign, **self._db.counts())

    def _read(self, message: Message, now_s: float) -> Received | None:
        device = parse_device(self._topics, message.topic)
        if device is None:
            self.foreign += 1
            return None
        try:
            document = read_message(self._topics, message.topic, message.payload)
        except DocumentError as error:
            self._tell(device, message.topic, error)
            return Received(device, now_s, message.retained, None)
        return None if document is None else Received(device, now_s, message.retained, document)

    def _tell(self, device: str, topic: str, error: DocumentError) -> None:
        if device in self._named or len(self._named) >= _NAMED_DEVICES:
            return
        self._named.add(device)
        log.warning(
            "Device %s sent an invalid message on %r: %s; further ones are only counted.", device, topic, error
        )


def collect(
    db: FleetDb,
    settings: BrokerSettings,
    until: Until,
    session_expiry_s: int,
    stopped: Callable[[], bool],
    tell: Callable[[Progress], None] | None = None,
) -> Progress:
    """Collect until stopped; `tell` hears about once a second how far it is. Returns what was done.

    Raises OperatorError if the broker refuses or if another collector takes over, StorageError if the disk
    refuses. A broker that is away is waited for; only with `quiet_s` it raises UnavailableError at the start.
    """
    collector = Collector(db, settings.topics)
    with Subscription(settings, settings.topics.all_up, db.client_id, session_expiry_s) as subscription:
        if until.quiet_s is not None:
            wait_until_connected(subscription, _CONNECT_S, stopped)
        begun_s = quiet_since_s = told_s = monotonic()
        link = str(subscription.problem)
        while not stopped():
            link = _tell_link(subscription, link)
            batch = subscription.receive(BATCH, _WAIT_S)
            now_s = monotonic()
            if batch:
                collector.take(batch, time())
                subscription.acknowledge(batch)
                quiet_since_s = monotonic()
            if tell is not None and now_s - told_s >= _TELL_EVERY_S:
                told_s = now_s
                tell(collector.progress(subscription.connected))
            if _is_over(until, now_s - begun_s, now_s - quiet_since_s):
                break
        return collector.progress(subscription.connected)


def _tell_link(subscription: Subscription, told: str) -> str:
    """Log how the link to the broker is, if that is not what was told last."""
    now = "Connected to the broker." if subscription.connected else str(subscription.problem or told)
    if now != told:
        log.info("%s", now)
    return now


def _is_over(until: Until, passed_s: float, quiet_s: float) -> bool:
    return (until.seconds is not None and passed_s >= until.seconds) or (
        until.quiet_s is not None and quiet_s >= until.quiet_s
    )
