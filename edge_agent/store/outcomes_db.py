"""Outcomes of predictions and their sums, in SQLite. One writer, serving; the supervisor reads the sums.

Flash wears by the page, so that a commit touches as few as it can: outcomes are appended to `fresh`, and every
few thousand rows are folded into `seen` (what was taken already) and `sums` in one go. The sums of a moment are
`sums` plus those of `fresh`; the pages are small. Durable by `synchronous=FULL` on a write-ahead log.
"""

import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from edge_agent.documents.errors import StorageError
from edge_agent.documents.messages import ArmSums
from edge_agent.policy.prediction_id import Prediction
from edge_agent.store.reading import reading

FOLD_ROWS: Final = 4096
"""Fresh rows that are folded at once; their keys are held in memory."""
PRUNE_ROWS: Final = 5000
"""Rows forgotten in one transaction, so that a device that was off for long does not stall."""
PRUNE_INTERVAL_S: Final = 600
METRICS_LIMIT: Final = 64
"""Names of metrics that one epoch of a model may have, each of which has sums for every arm and bucket."""

_SCHEMA: Final = 1
_PAGE_BYTES: Final = 512
_WAL_PAGES: Final = 4000
"""Pages in the log before they go into the file: two megabytes."""

_TABLES: Final = (
    "CREATE TABLE meta(database TEXT NOT NULL, revision INTEGER NOT NULL, pruned_s INTEGER NOT NULL)",
    "CREATE TABLE epoch(id INTEGER PRIMARY KEY, model TEXT, experiment TEXT, number INTEGER, revision INTEGER, "
    "UNIQUE(model, experiment, number))",
    "CREATE TABLE series(id INTEGER PRIMARY KEY, epoch INTEGER, arm TEXT, metric TEXT, "
    "UNIQUE(epoch, arm, metric))",
    "CREATE TABLE fresh(seq INTEGER PRIMARY KEY, time_s INTEGER, nonce BLOB, series INTEGER, bucket INTEGER, "
    "x REAL)",
    "CREATE TABLE seen(time_s INTEGER, nonce BLOB, series TEXT, PRIMARY KEY(time_s, nonce)) WITHOUT ROWID",
    "CREATE TABLE sums(series INTEGER, bucket INTEGER, n INTEGER, total REAL, squares REAL, "
    "PRIMARY KEY(series, bucket)) WITHOUT ROWID",
    f"PRAGMA user_version={_SCHEMA}",
)
_FOLD: Final = (
    "INSERT INTO sums SELECT series, bucket, count(*), sum(x), sum(x * x) FROM fresh WHERE true GROUP BY 1, 2 "
    "ON CONFLICT DO UPDATE SET n = n + excluded.n, total = total + excluded.total, "
    "squares = squares + excluded.squares",
    "INSERT INTO seen SELECT time_s, nonce, group_concat(series) FROM fresh WHERE true GROUP BY 1, 2 "
    "ON CONFLICT DO UPDATE SET series = series || ',' || excluded.series",
    "UPDATE epoch SET revision = changed.seq FROM (SELECT epoch, max(seq) AS seq FROM fresh "
    "JOIN series ON series.id = fresh.series GROUP BY epoch) AS changed WHERE epoch.id = changed.epoch",
    "UPDATE meta SET revision = (SELECT max(seq) FROM fresh)",
    "DELETE FROM fresh",
)
_SEEN: Final = "SELECT series FROM seen WHERE time_s = ? AND nonce = ?"
_ADD: Final = "INSERT INTO fresh VALUES (?, ?, ?, ?, ?, ?)"
_OLD: Final = "SELECT time_s FROM seen WHERE time_s < ? ORDER BY time_s LIMIT ?"
_EPOCHS: Final = (
    "SELECT id, model, experiment, number, max(revision, coalesce((SELECT max(seq) FROM fresh "
    "JOIN series ON series.id = fresh.series WHERE series.epoch = epoch.id), 0)) FROM epoch ORDER BY id"
)
_SUMS: Final = (
    "SELECT arm, bucket, metric, sum(n), sum(total), sum(squares) FROM ("
    "SELECT series, bucket, n, total, squares FROM sums "
    "UNION ALL SELECT series, bucket, 1, x, x * x FROM fresh) AS part JOIN series ON series.id = part.series "
    "WHERE epoch = ? GROUP BY arm, metric, bucket ORDER BY arm, metric, bucket"
)

_NO_DAMAGE: Final = (sqlite3.OperationalError, sqlite3.ProgrammingError, sqlite3.InterfaceError)

Verdict = Literal["accepted", "duplicate", "late", "crowded"]
"""`crowded`: its epoch has too many names of metrics already."""


class Outcome(msgspec.Struct, frozen=True):
    """What came of one prediction: finite numbers by metric."""

    prediction: Prediction
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """What a reader has seen: the database, by its random name, and the revision of it."""

    database: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class EpochSums:
    """Cumulative sums of one epoch of a model's experiment; `revision` grows with each change of them."""

    model: str
    experiment: str
    """The experiment's name, the model's where there is none."""
    epoch: int
    revision: int
    sums: tuple[ArmSums, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """The epochs that have changed since a mark, and the mark to read on from."""

    mark: Mark
    epochs: tuple[EpochSums, ...] = ()


_Key = tuple[int, bytes, int]
"""What is taken once: time and nonce of the prediction, and series."""


@dataclass(slots=True)
class _Memory:
    """What the writer remembers of the file's content while it is open."""

    revision: int
    pruned_s: int
    """Predictions up to this time are late for good: what was taken of them is forgotten."""
    epochs: dict[tuple[str, str, int], int]
    series: dict[tuple[int, str, str], int]
    fresh: set[_Key]


class OutcomesDb:
    """The writer. For one thread; the file is opened when it is first needed, and again after a failure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._memory = _Memory(0, 0, {}, {}, set())
        self._looked_s = 0
        """The `oldest_s` of the last look for rows to forget."""
        self.set_aside: Path | None = None
        """Where a damaged file was moved to, or None."""

    def record(self, outcomes: Sequence[Outcome], oldest_s: int) -> list[Verdict]:
        """Take outcomes in one transaction; those that are accepted are on the disk when this returns.

        Each is taken with all of its values or not at all. Those of predictions before `oldest_s` (Unix time)
        are late. Raises StorageError when the disk refuses; who then repeats them has each taken once.
        """
        try:
            try:
                return self._record(outcomes, oldest_s)
            except sqlite3.DatabaseError as error:
                if isinstance(error, _NO_DAMAGE):
                    raise
                self._put_aside()
                return self._record(outcomes, oldest_s)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"Outcomes cannot be stored in {self._path} ({error}): check its disk, and send them again."
            ) from error

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _put_aside(self) -> None:
        aside = self._path.with_name(f"{self._path.name}.damaged")
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self.set_aside = aside

    def _record(self, outcomes: Sequence[Outcome], oldest_s: int) -> list[Verdict]:
        try:
            if self._connection is None:
                self._connection = _connect(self._path)
                self._memory = _load(self._connection)
                self._looked_s = 0
            with _transaction(self._connection) as connection:
                verdicts = [self._take(connection, outcome, oldest_s) for outcome in outcomes]
                if len(self._memory.fresh) >= FOLD_ROWS:
                    self._fold(connection)
                self._forget(connection, oldest_s)
        except BaseException:
            # What is in memory may be ahead of the file.
            self.close()
            raise
        return verdicts

    def _take(self, connection: sqlite3.Connection, outcome: Outcome, oldest_s: int) -> Verdict:
        prediction, memory = outcome.prediction, self._memory
        if prediction.time_s < oldest_s or prediction.time_s <= memory.pruned_s:
            return "late"
        values: dict[_Key, float] = {}
        for metric, value in outcome.values.items():
            series = self._series(connection, prediction, metric)
            if series is None:
                return "crowded"
            values[prediction.time_s, prediction.nonce, series] = value
        row = connection.execute(_SEEN, (prediction.time_s, prediction.nonce)).fetchone()
        seen = row[0].split(",") if row else ()
        if any(key in memory.fresh or str(key[-1]) in seen for key in values):
            return "duplicate"
        for key, value in values.items():
            memory.revision += 1
            memory.fresh.add(key)
            connection.execute(_ADD, (memory.revision, *key, prediction.bucket, value))
        return "accepted"

    def _series(self, connection: sqlite3.Connection, prediction: Prediction, metric: str) -> int | None:
        """Return the number of these sums, a new one if need be; None if the epoch has too many metrics."""
        name = (prediction.model, prediction.experiment, prediction.epoch)
        memory = self._memory
        epoch = memory.epochs.get(name)
        if epoch is None:
            memory.epochs[name] = epoch = _insert(
                connection, "INSERT INTO epoch(model, experiment, number, revision) VALUES (?, ?, ?, 0)", name
            )
        key = (epoch, prediction.arm, metric)
        series = memory.series.get(key)
        if series is None:
            metrics = {known for number, _, known in memory.series if number == epoch}
            if metric not in metrics and len(metrics) >= METRICS_LIMIT:
                return None
            memory.series[key] = series = _insert(
                connection, "INSERT INTO series(epoch, arm, metric) VALUES (?, ?, ?)", key
            )
        return series

    def _fold(self, connection: sqlite3.Connection) -> None:
        for statement in _FOLD:
            connection.execute(statement)
        self._memory.fresh.clear()

    def _forget(self, connection: sqlite3.Connection, oldest_s: int) -> None:
        """Drop some of the rows of predictions that are late by now, and note how far that went.

        Only what was dropped is late for good, so that a clock that ran ahead for a while does no harm.
        """
        if abs(oldest_s - self._looked_s) < PRUNE_INTERVAL_S:
            return
        found = connection.execute(_OLD, (oldest_s, PRUNE_ROWS)).fetchall()
        if found:
            self._memory.pruned_s = max(self._memory.pruned_s, found[-1][0])
            connection.execute("DELETE FROM seen WHERE time_s <= ?", found[-1])
            connection.execute("UPDATE meta SET pruned_s = ?", (self._memory.pruned_s,))
        if len(found) < PRUNE_ROWS:
            self._looked_s = oldest_s


def read_sums(path: Path, since: Mark = Mark()) -> Reading:
    """Return the sums of the epochs that changed since a mark; all of them if the database is another by now.

    For another process than the writer's, which this never blocks; milliseconds. Nothing if there is no
    database yet. Raises StorageError when it cannot be read.
    """
    with reading(path, "outcomes") as connection:
        if connection is None:
            return Reading(Mark())
        connection.isolation_level = None
        # One transaction: all of it is read from the same moment.
        connection.execute("BEGIN")
        return _read(connection, since)


def _read(connection: sqlite3.Connection, since: Mark) -> Reading:
    if _version(connection) != _SCHEMA:
        return Reading(Mark())
    (database,) = connection.execute("SELECT database FROM meta").fetchone()
    epochs = connection.execute(_EPOCHS).fetchall()
    seen = since.revision if since.database == database else 0
    changed = [
        EpochSums(model, experiment, number, revision, _sums(connection, key))
        for key, model, experiment, number, revision in epochs
        if revision > seen
    ]
    return Reading(Mark(database, max((row[-1] for row in epochs), default=0)), tuple(changed))


def _sums(connection: sqlite3.Connection, epoch: int) -> tuple[ArmSums, ...]:
    return tuple(ArmSums(*row) for row in connection.execute(_SUMS, (epoch,)))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None)
    try:
        for pragma in (
            f"page_size={_PAGE_BYTES}",
            "journal_mode=WAL",
            "synchronous=FULL",
            f"wal_autocheckpoint={_WAL_PAGES}",
        ):
            with closing(connection.execute(f"PRAGMA {pragma}")):
                pass
        if _version(connection) == 0:
            _create(connection)
        _check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection) -> None:
    with _transaction(connection):
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES (?, 0, 0)", (secrets.token_hex(8),))


def _check(connection: sqlite3.Connection) -> None:
    """Raise DatabaseError if the sums are damaged; `seen` may be large, and says so itself when it is used."""
    if (version := _version(connection)) != _SCHEMA:
        raise sqlite3.OperationalError(f"it is of version {version}, this agent knows {_SCHEMA}")
    for table in ("meta", "epoch", "series", "fresh", "sums"):
        (verdict,) = connection.execute(f"PRAGMA quick_check('{table}')").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)


def _load(connection: sqlite3.Connection) -> _Memory:
    revision, pruned_s = connection.execute("SELECT revision, pruned_s FROM meta").fetchone()
    (newest,) = connection.execute("SELECT coalesce(max(seq), 0) FROM fresh").fetchone()
    epochs = connection.execute("SELECT id, model, experiment, number FROM epoch")
    series = connection.execute("SELECT id, epoch, arm, metric FROM series")
    return _Memory(
        revision=max(revision, newest),
        pruned_s=pruned_s,
        epochs={(model, experiment, number): key for key, model, experiment, number in epochs},
        series={(epoch, arm, metric): key for key, epoch, arm, metric in series},
        fresh=set(connection.execute("SELECT time_s, nonce, series FROM fresh")),
    )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commit what the block does, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _insert(connection: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> int:
    """Insert a row and return its number."""
    with closing(connection.execute(statement, values)) as cursor:
        assert cursor.lastrowid is not None
        return cursor.lastrowid


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version
