"""Sends the audit events to the fleet, in order, until the broker has acknowledged each."""

import asyncio
from typing import Final

import msgspec

from edge_agent.control.broker_link import MqttClient
from edge_agent.control.complaints import Complaints
from edge_agent.control.journal import Journal
from edge_agent.control.mqtt import WINDOW, Message
from edge_agent.documents.errors import EdgeAgentError, PayloadTooLargeError, StorageError, UnavailableError
from edge_agent.documents.messages import EventMessage
from edge_agent.documents.topics import Topics
from edge_agent.store.events_db import EventsDb, StoredEvent

RETRY_S: Final = 5.0
"""How long to wait after the disk refused."""
REFUSED_RETRY_S: Final = 600.0
"""How long until events that the broker refused are offered again."""


class Outbox:
    """Publishes what the events database holds unsent; its position there survives any crash."""

    def __init__(
        self, client: MqttClient, journal: Journal, complaints: Complaints, topics: Topics, device: str
    ) -> None:
        self._client = client
        self._journal = journal
        self._complaints = complaints
        self._topics = topics
        self._device = device

    @property
    def length(self) -> int:
        """Events that the broker has not acknowledged."""
        db = self._journal.db
        try:
            return db.unsent_count() if db is not None else 0
        except StorageError:
            return 0

    async def run(self) -> None:
        """Send new events as they come, until cancelled."""
        while True:
            await self._client.wait_up()
            self._journal.recorded.clear()
            try:
                busy = await self._send_some()
            except StorageError:
                await asyncio.sleep(RETRY_S)
                continue
            if not busy:
                await self._journal.recorded.wait()

    async def run_refused(self) -> None:
        """Offer again what the broker refused, now and then, until cancelled."""
        while True:
            await asyncio.sleep(REFUSED_RETRY_S)
            await self._client.wait_up()
            db = self._journal.db
            if db is None:
                continue
            try:
                refused = db.refused(WINDOW)
                results = await self._publish(db, refused)
                sent = [stored.seq for stored, error in zip(refused, results, strict=True) if error is None]
                db.take_back_refusal(sent)
            except StorageError:
                continue

    async def _send_some(self) -> bool:
        """Send a window of events; return False if there are none. Raises StorageError."""
        db = self._journal.db
        events = db.unsent(WINDOW) if db is not None else []
        if db is None or not events:
            return False
        upto, refused = events[0].seq - 1, []
        for stored, error in zip(events, await self._publish(db, events), strict=True):
            if isinstance(error, UnavailableError):
                break
            if isinstance(error, PayloadTooLargeError):
                self._complaints.tell(f"An event of type {stored.event.type} is too large for the broker.")
            elif error is not None:
                refused.append(stored.seq)
                self._complaints.tell(str(error))
            upto = stored.seq
        if upto >= events[0].seq:  # a connection that is lost at once, again and again, must not wear the disk
            db.acknowledge(upto, refused)
        return True

    async def _publish(self, db: EventsDb, events: list[StoredEvent]) -> list[EdgeAgentError | None]:
        return await asyncio.gather(*(self._publish_one(db, stored) for stored in events))

    async def _publish_one(self, db: EventsDb, stored: StoredEvent) -> EdgeAgentError | None:
        message = EventMessage(f"{db.epoch}-{stored.seq}", stored.event)
        topic = self._topics.up(self._device, "event", stored.event.type)
        try:
            await self._client.publish(Message(topic, msgspec.json.encode(message)))
        except EdgeAgentError as error:
            return error
        return None
