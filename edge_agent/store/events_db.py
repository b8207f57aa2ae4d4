"""The audit events, in SQLite: one row a change of state, never changed afterwards. One writer, the supervisor.

Durable by `synchronous=FULL` on a write-ahead log. A damaged file is set aside, not repaired.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

import msgspec

from edge_agent.documents.errors import StorageError
from edge_agent.documents.messages import Event

KEEP = 10_000
"""Rows kept; older ones are dropped as new ones come."""


class EventsDb:
    """An append-only log of events; all methods raise StorageError when the disk refuses."""

    def __init__(self, connection: sqlite3.Connection, set_aside: Path | None) -> None:
        self._connection = connection
        self.set_aside = set_aside
        """Where a damaged file was moved to, or None."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the log; a damaged one is renamed to `events.db.damaged` and a new one begun."""
        try:
            return cls(_connect(path), None)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StorageError(f"Cannot open {path}: {error}; check its disk and owner.") from error
        aside = path.with_name(f"{path.name}.damaged")
        try:
            path.replace(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return cls(_connect(path), aside)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"Cannot replace the damaged {path}: {error}; remove it.") from error

    def append(self, events: Sequence[Event]) -> None:
        """Store events, all or none; they are on the disk when this returns."""
        rows = [(event.time_s, event.type, msgspec.json.encode(event)) for event in events]
        try:
            with self._connection:
                self._connection.executemany("INSERT INTO event(time_s, type, body) VALUES (?, ?, ?)", rows)
                self._connection.execute(
                    "DELETE FROM event WHERE seq <= (SELECT max(seq) FROM event) - ?", (KEEP,)
                )
        except sqlite3.Error as error:
            raise StorageError(f"Cannot store an event: {error}; free some space on that disk.") from error

    def newest(self, limit: int) -> list[Event]:
        """Return up to `limit` events, the newest last."""
        try:
            rows = self._connection.execute(
                "SELECT body FROM event ORDER BY seq DESC LIMIT ?", (limit,)
            ).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"Cannot read the events: {error}; check that disk.") from error
        return [msgspec.json.decode(body, type=Event) for (body,) in reversed(rows)]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "journal_size_limit=262144"):
            with closing(connection.execute(f"PRAGMA {pragma}")):
                pass
        with connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS event("
                "seq INTEGER PRIMARY KEY AUTOINCREMENT, time_s REAL NOT NULL, type TEXT NOT NULL, "
                "body BLOB NOT NULL)"
            )
        _check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
