import sqlite3
from pathlib import Path

import pytest

from edge_agent.documents.messages import Event
from edge_agent.store import events_db
from edge_agent.store.events_db import EventsDb, ExposureKey

ARM = ExposureKey("d", "m", "e", 1, "a")


def event(number: int) -> Event:
    return Event("warning", float(number), f"event {number}")


def events(count: int) -> list[Event]:
    return [event(number) for number in range(1, count + 1)]


def test_what_is_acknowledged_stays_so_and_the_epoch_too(tmp_path: Path) -> None:
    first = EventsDb.open(tmp_path / "events.db", keep_unsent=True)
    first.append(events(5))
    first.acknowledge(3, refused=[2])
    epoch = first.epoch
    first.close()
    again = EventsDb.open(tmp_path / "events.db", keep_unsent=True)
    assert [stored.seq for stored in again.unsent(9)] == [4, 5]
    assert [stored.event for stored in again.refused(9)] == [event(2)]
    assert (again.unsent_count(), again.epoch) == (3, epoch)
    again.take_back_refusal([2])
    again.acknowledge(1)
    assert again.unsent_count() == 2
    again.close()
    other = EventsDb.open(tmp_path / "other.db")
    assert other.epoch != epoch
    other.close()


def test_unsent_events_outlive_the_others_up_to_a_hard_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_db, "KEEP", 10)
    monkeypatch.setattr(events_db, "KEEP_UNSENT", 50)
    db = EventsDb.open(tmp_path / "events.db", keep_unsent=True)
    db.append(events(40))
    assert db.unsent_count() == 40
    db.acknowledge(35, refused=[7])
    db.append(events(1))
    assert [stored.seq for stored in db.unsent(99)] == [36, 37, 38, 39, 40, 41]
    assert [stored.seq for stored in db.refused(99)] == [7]
    assert len(db.newest(99)) == 11
    db.append(events(100))
    assert [db.unsent(1)[0].seq, db.unsent_count(), db.refused(9)] == [92, 50, []]
    db.close()


def test_exposures_add_up_over_restarts(tmp_path: Path) -> None:
    for _ in range(2):
        db = EventsDb.open(tmp_path / "events.db")
        db.add_exposures({ARM: 3})
        db.close()
    db = EventsDb.open(tmp_path / "events.db")
    assert db.exposures() == {ARM: 6}
    db.close()


def test_an_event_that_cannot_be_read_does_not_keep_back_the_others(tmp_path: Path) -> None:
    db = EventsDb.open(tmp_path / "events.db", keep_unsent=True)
    db.append([event(1), event(2), event(3)])
    with sqlite3.connect(tmp_path / "events.db") as other:
        other.execute("UPDATE event SET body = replace(body, 'warning', 'from_the_future') WHERE seq = 1")
        other.execute("UPDATE event SET body = x'ff' WHERE seq = 2")
    other.close()
    found = db.unsent(9)
    assert [stored.seq for stored in found] == [1, 2, 3]
    assert [stored.event.time_s for stored in found] == [1.0, 2.0, 3.0]
    assert ["cannot be read" in stored.event.message for stored in found] == [True, True, False]
    db.close()
