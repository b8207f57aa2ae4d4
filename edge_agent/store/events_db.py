"""The audit events, in SQLite: one row a change of state, never changed afterwards. One writer, the supervisor.

It is the outbox of the fleet link, too: which events the broker has not acknowledged yet, and how often each
arm answered. Durable by `synchronous=FULL` on a write-ahead log. A damaged file is set aside, not repaired.
"""

import secrets
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from edge_agent.documents.errors import StorageError
from edge_agent.documents.messages import Event
from edge_agent.store.reading import reading

KEEP = 10_000
"""Rows kept; older ones are dropped as new ones come."""
KEEP_UNSENT = 100_000
"""Rows kept where the older ones are not sent yet: a disk must not fill up for want of a broker."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event and its place in the log, which counts up from 1."""

    seq: int
    event: Event


@dataclass(frozen=True, slots=True)
class ExposureKey:
    """What exposures are counted by.

    `database` is the id of the outcomes database of their time, this one's epoch before there was any: sums and
    exposures of one database are told together, and begin again together.
    """

    database: str
    model: str
    experiment: str
    epoch: int
    arm: str


class EventsDb:
    """An append-only log of events; all methods raise StorageError when the disk refuses.

    With `keep_unsent`, events that are not acknowledged outlive the others.
    """

    def __init__(
        self, connection: sqlite3.Connection, set_aside: Path | None, keep_unsent: bool = False
    ) -> None:
        self._connection = connection
        self._keep_unsent = keep_unsent
        self.set_aside = set_aside
        """Where a damaged file was moved to, or None."""
        self.epoch: str = connection.execute("SELECT epoch FROM outbox").fetchone()[0]
        """Random, and the same for the life of this file."""

    @classmethod
    def open(cls, path: Path, keep_unsent: bool = False) -> Self:
        """Open or create the log; a damaged one is renamed to `events.db.damaged` and a new one begun."""
        try:
            return cls(_connect(path), None, keep_unsent)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StorageError(
                    f"Cannot open {path}: {error}; check that its disk has space, and who owns it."
                ) from error
        aside = path.with_name(f"{path.name}.damaged")
        try:
            path.replace(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return cls(_connect(path), aside, keep_unsent)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"Cannot replace the damaged {path}: {error}; remove it.") from error

    def append(self, events: Sequence[Event]) -> None:
        """Store events, all or none; they are on the disk when this returns."""
        rows = [(event.time_s, event.type, msgspec.json.encode(event)) for event in events]
        with self._changing("store an event") as connection:
            connection.executemany("INSERT INTO event(time_s, type, body) VALUES (?, ?, ?)", rows)
            self._prune(connection)

    def _prune(self, connection: sqlite3.Connection) -> None:
        newest = connection.execute("SELECT max(seq) FROM event").fetchone()[0] or 0
        if not self._keep_unsent:
            connection.execute("DELETE FROM event WHERE seq <= ?", (newest - KEEP,))
            return
        connection.execute(
            "DELETE FROM event WHERE seq <= ? OR (seq <= ? AND seq <= (SELECT acknowledged FROM outbox) "
            "AND seq NOT IN (SELECT seq FROM refused))",
            (newest - KEEP_UNSENT, newest - KEEP),
        )
        connection.execute("DELETE FROM refused WHERE seq <= ?", (newest - KEEP_UNSENT,))

    # --- the outbox ------------------------------------------------------------------------------------------

    def unsent(self, limit: int) -> list[StoredEvent]:
        """Return the oldest events that were neither acknowledged nor refused, in order."""
        return self._select(
            "SELECT seq, time_s, body FROM event WHERE seq > (SELECT acknowledged FROM outbox) "
            "ORDER BY seq LIMIT ?",
            limit,
        )

    def refused(self, limit: int) -> list[StoredEvent]:
        """Return the oldest events that the broker refused, in order."""
        return self._select(
            "SELECT seq, time_s, body FROM event NATURAL JOIN refused ORDER BY seq LIMIT ?", limit
        )

    def unsent_count(self) -> int:
        """Return how many events the broker has not acknowledged, those it refused included."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM event WHERE seq > (SELECT acknowledged FROM outbox)) + "
                "(SELECT count(*) FROM refused)"
            ).fetchone()
        return int(row[0])

    def acknowledge(self, upto: int, refused: Collection[int] = ()) -> None:
        """Note that all events up to this one are sent, but for those that the broker refused."""
        with self._changing("note what was sent") as connection:
            connection.execute("UPDATE outbox SET acknowledged = max(acknowledged, ?)", (upto,))
            connection.executemany("INSERT OR IGNORE INTO refused VALUES (?)", [(seq,) for seq in refused])

    def take_back_refusal(self, sent: Collection[int]) -> None:
        """Note that events that were refused are sent after all."""
        with self._changing("note what was sent") as connection:
            connection.executemany("DELETE FROM refused WHERE seq = ?", [(seq,) for seq in sent])

    # --- exposures -------------------------------------------------------------------------------------------

    def add_exposures(self, counts: Mapping[ExposureKey, int]) -> None:
        """Add to how often arms answered."""
        rows = [
            (key.database, key.model, key.experiment, key.epoch, key.arm, count)
            for key, count in counts.items()
        ]
        with self._changing("store exposures") as connection:
            connection.executemany(
                "INSERT INTO exposure VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET count = count + excluded.count",
                rows,
            )

    def exposures(self) -> dict[ExposureKey, int]:
        """Return how often each arm answered."""
        with self._reading() as connection:
            rows = connection.execute("SELECT * FROM exposure").fetchall()
        return {ExposureKey(*key): count for *key, count in rows}

    # --- reading ---------------------------------------------------------------------------------------------

    def newest(self, limit: int) -> list[Event]:
        """Return up to `limit` events, the newest last."""
        found = self._select("SELECT seq, time_s, body FROM event ORDER BY seq DESC LIMIT ?", limit)
        return [stored.event for stored in reversed(found)]

    def _select(self, query: str, limit: int) -> list[StoredEvent]:
        with self._reading() as connection:
            rows = connection.execute(query, (limit,)).fetchall()
        return [StoredEvent(seq, _event(time_s, body)) for seq, time_s, body in rows]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection
        except sqlite3.Error as error:
            raise StorageError(f"Cannot read the events: {error}; check that disk.") from error

    @contextmanager
    def _changing(self, what: str) -> Iterator[sqlite3.Connection]:
        """One transaction: all or nothing, and on the disk when the block ends."""
        try:
            with self._connection:
                yield self._connection
        except sqlite3.Error as error:
            raise StorageError(f"Cannot {what}: {error}; free some space on that disk.") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def read_newest(path: Path, limit: int) -> list[Event]:
    """Return up to `limit` events of a log, the newest last, without changing anything.

    For another process than the writer's. Nothing if there is no log yet. Raises StorageError when it cannot be
    read.
    """
    query = "SELECT time_s, body FROM event ORDER BY seq DESC LIMIT ?"
    with reading(path, "events") as connection:
        if connection is None:
            return []
        rows = connection.execute(query, (limit,)).fetchall()
    return [_event(time_s, body) for time_s, body in reversed(rows)]


_TABLES = (
    "event(seq INTEGER PRIMARY KEY AUTOINCREMENT, time_s REAL NOT NULL, type TEXT NOT NULL, "
    "body BLOB NOT NULL)",
    "outbox(id INTEGER PRIMARY KEY, epoch TEXT NOT NULL, acknowledged INTEGER NOT NULL)",
    "refused(seq INTEGER PRIMARY KEY)",
    "exposure(outcomes TEXT, model TEXT, experiment TEXT, epoch INTEGER, arm TEXT, count INTEGER NOT NULL, "
    "PRIMARY KEY (outcomes, model, experiment, epoch, arm)) WITHOUT ROWID",
)


def _event(time_s: float, body: bytes) -> Event:
    """Return a stored event; one that this agent cannot read must not keep back those after it."""
    try:
        return msgspec.json.decode(body, type=Event)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return Event("warning", time_s, f"A stored event cannot be read, perhaps of a newer agent: {error}.")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "journal_size_limit=262144"):
            with closing(connection.execute(f"PRAGMA {pragma}")):
                pass
        with connection:
            for table in _TABLES:
                connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            connection.execute("INSERT OR IGNORE INTO outbox VALUES (1, ?, 0)", (secrets.token_hex(8),))
        _check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
