"""What the fleet told, in one SQLite file: devices, events, metrics and sums of outcomes.

Every message may come twice or again later: storing it a second time changes nothing. One collector writes,
anybody may read meanwhile.
"""

import fcntl
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, assert_never

import msgspec

from edge_agent.documents.errors import (
    EdgeAgentError,
    NotFoundError,
    OperatorError,
    StateLockedError,
    StorageError,
    UnavailableError,
)
from edge_agent.documents.messages import AbMessage, EventMessage, MetricsMessage, Reported
from edge_agent.store.files import mapping_os_errors
from edge_fleet.uplink import Document, Status

_VERSION = 1
_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE device(
    device TEXT PRIMARY KEY, online INTEGER, online_s REAL, seen_s REAL, group_name TEXT, serial INTEGER,
    reported BLOB, metrics BLOB, invalid INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE event(
    device TEXT, id TEXT, time_s REAL NOT NULL, received_s REAL NOT NULL, type TEXT NOT NULL,
    body BLOB NOT NULL, PRIMARY KEY(device, id)) WITHOUT ROWID;
CREATE TABLE ab(
    device TEXT, database TEXT, model TEXT, experiment TEXT, epoch INTEGER, part INTEGER,
    revision INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY(experiment, model, epoch, device, database, part)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Received:
    """A message of a device; `document` is None if it was invalid.

    `seen_s` is None for a retained message, which does not tell when the device was there.
    """

    device: str
    received_s: float
    retained: bool
    document: Document | None


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """What is known of a device; times are Unix time by this host's clock."""

    device: str
    online: bool | None
    online_s: float | None
    """Since when `online` is so; None if only the broker's memory told it."""
    seen_s: float | None
    """When a message came from the device itself."""
    reported: Reported | None
    metrics: MetricsMessage | None
    invalid: int
    """Messages that were not valid."""


@dataclass(frozen=True, slots=True)
class AbRow:
    """The latest sums of one device, as one message."""

    device: str
    message: AbMessage


class FleetDb:
    """The collector's database; methods raise StorageError when the disk refuses or the file is damaged."""

    def __init__(self, connection: sqlite3.Connection, path: Path, lock: IO[bytes] | None = None) -> None:
        self._connection = connection
        self._path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the database for the collector; raises StateLockedError if another one has it."""
        lock = _lock(path)
        try:
            connection = sqlite3.connect(path, timeout=10.0)
            with _closing_on_error(connection):
                for pragma in ("journal_mode=WAL", "synchronous=FULL"):
                    connection.execute(f"PRAGMA {pragma}").close()
                _create(connection, path)
        except sqlite3.Error as error:
            lock.close()
            raise _storage_error(path, error) from error
        except EdgeAgentError:
            lock.close()
            raise
        return cls(connection, path, lock)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open the database for reading, also while it is written; raises NotFoundError if there is none."""
        if not path.is_file():
            raise NotFoundError(
                f"{path} is not there: edge-fleet collect writes it, or name another with --db."
            )
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)
            with _closing_on_error(connection):
                _check_version(connection, path)
        except sqlite3.Error as error:
            raise _storage_error(path, error) from error
        return cls(connection, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    @property
    def client_id(self) -> str:
        """The name of the collector's session with the broker; random for each database."""
        ((value,),) = self._rows("SELECT value FROM meta WHERE key = 'client_id'")
        return str(value)

    def store(self, messages: Iterable[Received]) -> int:
        """Store messages, all or none, durably; return how many changed anything."""
        try:
            with self._connection:
                return sum(_store(self._connection.execute, message) for message in messages)
        except sqlite3.Error as error:
            raise _storage_error(self._path, error) from error

    def devices(self) -> list[DeviceRow]:
        """Return all devices, by name."""
        rows = self._rows(
            "SELECT device, online, online_s, seen_s, reported, metrics, invalid FROM device ORDER BY device"
        )
        return [
            DeviceRow(
                device,
                None if online is None else bool(online),
                online_s,
                seen_s,
                None if reported is None else msgspec.json.decode(reported, type=Reported),
                None if metrics is None else msgspec.json.decode(metrics, type=MetricsMessage),
                invalid,
            )
            for device, online, online_s, seen_s, reported, metrics, invalid in rows
        ]

    def counts(self) -> dict[str, int]:
        """Return how much is stored: devices, of them online, events, sums, invalid messages."""
        queries = {
            "devices": "SELECT count(*) FROM device",
            "online": "SELECT count(*) FROM device WHERE online",
            "events": "SELECT count(*) FROM event",
            "sums": "SELECT count(*) FROM ab",
            "invalid": "SELECT coalesce(sum(invalid), 0) FROM device",
        }
        return {name: int(self._rows(query)[0][0]) for name, query in queries.items()}

    def epochs(self) -> list[tuple[str, str, int]]:
        """Return every experiment, model and epoch that there are sums of, sorted."""
        rows = self._rows("SELECT DISTINCT experiment, model, epoch FROM ab ORDER BY experiment, model, epoch")
        return [(str(experiment), str(model), int(epoch)) for experiment, model, epoch in rows]

    def sums(self, experiment: str, model: str, epoch: int, group: str | None = None) -> Iterator[AbRow]:
        """Yield the latest sums of every device, or of those that were last in a group."""
        rows = self._rows(
            "SELECT ab.device, ab.body FROM ab LEFT JOIN device USING (device) "
            "WHERE experiment = ? AND model = ? AND epoch = ? "
            "AND (? IS NULL OR device.group_name = ?) ORDER BY ab.device, database, revision",
            (experiment, model, epoch, group, group),
        )
        for device, body in rows:
            yield AbRow(device, msgspec.json.decode(body, type=AbMessage))

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            with closing(self._connection.execute(query, values)) as cursor:
                return cursor.fetchall()
        except sqlite3.Error as error:
            raise _storage_error(self._path, error) from error


_Execute = Callable[[str, tuple[Any, ...]], sqlite3.Cursor]


def _store(execute: _Execute, message: Received) -> int:
    execute("INSERT OR IGNORE INTO device(device) VALUES (?)", (message.device,))
    if not message.retained and message.document != Status(online=False):  # the last will is the broker's
        execute("UPDATE device SET seen_s = ? WHERE device = ?", (message.received_s, message.device))
    document = message.document
    match document:
        case None:
            cursor = execute("UPDATE device SET invalid = invalid + 1 WHERE device = ?", (message.device,))
        case Status():
            since_s = None if message.retained else message.received_s
            cursor = execute(
                "UPDATE device SET online = ?, online_s = ? WHERE device = ? AND online IS NOT ?",
                (document.online, since_s, message.device, document.online),
            )
        case Reported():
            cursor = execute(
                "UPDATE device SET group_name = ?, serial = ?, reported = ? WHERE device = ?",
                (document.group, document.serial, msgspec.json.encode(document), message.device),
            )
        case MetricsMessage():
            cursor = execute(
                "UPDATE device SET metrics = ? WHERE device = ?",
                (msgspec.json.encode(document), message.device),
            )
        case EventMessage():
            cursor = _store_event(execute, message, document)
        case AbMessage():
            cursor = _store_sums(execute, message.device, document)
        case _:
            assert_never(document)
    return cursor.rowcount


def _store_event(execute: _Execute, message: Received, document: EventMessage) -> sqlite3.Cursor:
    event = document.event
    return execute(
        "INSERT OR IGNORE INTO event(device, id, time_s, received_s, type, body) VALUES (?, ?, ?, ?, ?, ?)",
        (
            message.device,
            document.id,
            event.time_s,
            message.received_s,
            event.type,
            msgspec.json.encode(event),
        ),
    )


def _store_sums(execute: _Execute, device: str, document: AbMessage) -> sqlite3.Cursor:
    key = (
        device,
        document.database,
        document.model,
        document.experiment,
        document.epoch,
        document.part,
    )
    return execute(
        "INSERT INTO ab(device, database, model, experiment, epoch, part, revision, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET revision = excluded.revision, "
        "body = excluded.body WHERE excluded.revision > revision",
        (*key, document.revision, msgspec.json.encode(document)),
    )


def _lock(path: Path) -> IO[bytes]:
    """Hold the database against other collectors: with one session at the broker, each would get half."""
    name = path.with_name(f"{path.name}.lock")
    with mapping_os_errors(name):
        file = name.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StateLockedError(
            f"Another collector writes to {path}: stop it, or give this one a database of its own."
        ) from error
    return file


def _create(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and tables == 0:
        client_id = f"edge-fleet-collect-{secrets.token_hex(8)}"
        connection.executescript(f"BEGIN; {_SCHEMA}")
        connection.execute("INSERT INTO meta VALUES ('client_id', ?)", (client_id,))
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.commit()
    _check_version(connection, path)


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and tables == 0:
        raise UnavailableError(f"{path} is empty as yet: try again once edge-fleet collect has begun.")
    if version != _VERSION:
        raise OperatorError(
            f"{path} is no database of this edge-fleet (version {version}, not {_VERSION}): name another."
        )


@contextmanager
def _closing_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _storage_error(path: Path, error: sqlite3.Error) -> StorageError:
    return StorageError(f"The database {path} cannot be used: {error}; check the file, its disk and its owner.")
