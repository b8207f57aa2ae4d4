import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.documents.errors import NotFoundError, OperatorError, StorageError, UnavailableError
from edge_agent.documents.messages import AbMessage, ArmSums, Event, EventMessage, MetricsMessage, Reported
from edge_fleet.fleet_db import FleetDb, Received
from edge_fleet.uplink import Document, Status


def received(document: Document | None, at_s: float = 10.0, retained: bool = False) -> Received:
    return Received("d", at_s, retained, document)


def ab(revision: int, total: float, **fields: object) -> AbMessage:
    sums = (ArmSums("1", 0, "x", revision, total, total),)
    options = {"database": "a", "model": "m", "experiment": "e", "epoch": 1, "exposures": {"1": 9}, **fields}
    return AbMessage(revision=revision, sums=sums, **options)  # type: ignore[arg-type]


def event(id_: str) -> EventMessage:
    return EventMessage(id_, Event("started", 1.0, "It started."))


def test_a_message_seen_twice_changes_nothing(tmp_path: Path) -> None:
    messages = [
        received(Status(online=True)),
        received(Reported("d", "1", "south", 3, "p")),
        received(event("a-1")),
        received(event("a-2")),
        received(MetricsMessage(2.0, 1.0)),
        received(ab(4, 2.0)),
    ]
    with FleetDb.open(tmp_path / "fleet.db") as db:
        assert db.store(messages) == 6
        first = db.devices(), list(db.sums("e", "m", 1)), db.counts()
        db.store(messages)
        assert (db.devices(), list(db.sums("e", "m", 1)), db.counts()) == first
        assert first[2] == {"devices": 1, "online": 1, "events": 2, "sums": 1, "invalid": 0}
    with FleetDb.open(tmp_path / "fleet.db") as db, FleetDb.read(tmp_path / "fleet.db") as reader:
        assert reader.devices() == first[0]
        assert reader.client_id == db.client_id
        db.store([received(None)])
        assert reader.counts()["invalid"] == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(order=st.permutations([1, 2, 3, 4, 4, 2]))
def test_the_last_revision_counts_in_any_order(tmp_path: Path, order: list[int]) -> None:
    (tmp_path / "fleet.db").unlink(missing_ok=True)
    with FleetDb.open(tmp_path / "fleet.db") as db:
        for revision in order:
            db.store([received(ab(revision, float(revision)))])
        (row,) = db.sums("e", "m", 1)
        assert (row.device, row.message) == ("d", ab(4, 4.0))


def test_databases_parts_epochs_and_experiments_are_apart(tmp_path: Path) -> None:
    others = [{}, {"database": "b"}, {"part": 1}, {"epoch": 0}, {"experiment": "f"}, {"model": "n"}]
    with FleetDb.open(tmp_path / "fleet.db") as db:
        db.store([received(ab(1, 1.0, **fields)) for fields in others])
        assert len(list(db.sums("e", "m", 1))) == 3
        assert db.epochs() == [("e", "m", 0), ("e", "m", 1), ("e", "n", 1), ("f", "m", 1)]
        assert list(db.sums("e", "m", 1, group="south")) == []
        db.store([received(Reported("d", "1", "south", 3, "p"))])
        assert len(list(db.sums("e", "m", 1, group="south"))) == 3


def test_when_a_device_was_seen(tmp_path: Path) -> None:
    with FleetDb.open(tmp_path / "fleet.db") as db:

        def seen(*messages: Received) -> tuple[bool | None, float | None, float | None]:
            db.store(messages)
            (row,) = db.devices()
            return row.online, row.online_s, row.seen_s

        assert seen(received(Status(online=True), retained=True)) == (True, None, None)
        assert seen(received(event("a-1"), 20.0)) == (True, None, 20.0)
        assert seen(received(Status(online=False), 30.0)) == (False, 30.0, 20.0)
        assert seen(received(Status(online=False), 40.0, retained=True)) == (False, 30.0, 20.0)


def test_files_that_are_no_database_of_ours(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="edge-fleet collect writes it"):
        FleetDb.read(tmp_path / "none.db")
    (tmp_path / "text").write_text("no database, but long enough to be taken for one" * 100)
    for open_ in (FleetDb.open, FleetDb.read):
        with pytest.raises(StorageError, match="not a database"):
            open_(tmp_path / "text")
    (tmp_path / "begun.db").touch()
    with pytest.raises(UnavailableError, match="is empty as yet"):
        FleetDb.read(tmp_path / "begun.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE mine(x)")
    other.close()
    for open_ in (FleetDb.open, FleetDb.read):
        with pytest.raises(OperatorError, match="no database of this edge-fleet"):
            open_(tmp_path / "other.db")
    with pytest.raises(StorageError, match="No such file"):
        FleetDb.open(tmp_path / "no folder" / "fleet.db")
