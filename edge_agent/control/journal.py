"""Where every change of state is written: the log for people, the events database for audit."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from edge_agent.documents.errors import StorageError
from edge_agent.documents.messages import Event, EventType
from edge_agent.store.events_db import EventsDb

log = logging.getLogger("edge_agent.events")

WAITING_LIMIT = 1000
_WARNINGS = {"refused", "quarantined", "crashed", "hung", "sync_failed", "state_damaged", "warning"}


class Journal:
    """Records events; what the disk refuses waits in memory and is tried again by `flush`."""

    def __init__(self, open_db: Callable[[], EventsDb], clock: Callable[[], float] = time.time) -> None:
        self._open_db = open_db
        self._db: EventsDb | None = None
        self._clock = clock
        self._waiting: deque[Event] = deque(maxlen=WAITING_LIMIT)
        self.problem: str | None = None
        """Why events cannot be stored now, or None."""
        self.recorded = asyncio.Event()
        """Set with each event; who waits for it clears it."""

    def record(
        self,
        kind: EventType,
        message: str,
        *,
        model: str | None = None,
        version: str | None = None,
        serial: int | None = None,
        actor: str = "agent",
    ) -> None:
        """Log one event and store it durably; never raises."""
        event = Event(kind, self._clock(), message, model, version, serial, actor)
        subject = " ".join(part for part in (model, version) if part)
        level = logging.WARNING if kind in _WARNINGS else logging.INFO
        log.log(level, "%s%s: %s", kind, f" {subject}" if subject else "", message)
        self._waiting.append(event)
        self.flush()
        self.recorded.set()

    def flush(self) -> None:
        """Store what waits, if the disk lets us."""
        try:
            if self._db is None:
                self._db = self._open_db()
                if self._db.set_aside is not None:
                    self._waiting.append(
                        Event(
                            "state_damaged",
                            self._clock(),
                            f"The event log was damaged and set aside as {self._db.set_aside}.",
                        )
                    )
            if self._waiting:
                self._db.append(tuple(self._waiting))
                self._waiting.clear()
            self.problem = None
        except StorageError as error:
            self.problem = str(error)

    @property
    def db(self) -> EventsDb | None:
        """The database, or None while it cannot be opened; its methods raise StorageError."""
        return self._db

    def newest(self, limit: int) -> list[Event]:
        """Return the newest events, oldest first, with those that are not stored yet."""
        waiting = list(self._waiting)
        try:
            stored = self._db.newest(limit) if self._db is not None else []
        except StorageError as error:
            self.problem = str(error)
            stored = []
        return [*stored, *waiting][-limit:]

    def close(self) -> None:
        """Store what waits and close the database."""
        self.flush()
        if self._db is not None:
            self._db.close()
