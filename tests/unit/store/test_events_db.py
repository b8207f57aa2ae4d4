import sqlite3
from pathlib import Path

import pytest

from edge_agent.documents.errors import StorageError
from edge_agent.documents.messages import Event
from edge_agent.store import events_db
from edge_agent.store.events_db import EventsDb


def event(number: int) -> Event:
    return Event("warning", float(number), f"event {number}", model="m", serial=number)


def test_events_outlive_the_process_in_order(tmp_path: Path) -> None:
    first = EventsDb.open(tmp_path / "events.db")
    first.append([event(1), event(2)])
    first.append([event(3)])
    first.close()
    again = EventsDb.open(tmp_path / "events.db")
    assert again.newest(2) == [event(2), event(3)]
    assert again.newest(9) == [event(1), event(2), event(3)]
    assert again.set_aside is None
    again.close()


def test_old_events_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_db, "KEEP", 10)
    db = EventsDb.open(tmp_path / "events.db")
    for number in range(25):
        db.append([event(number)])
    assert [found.serial for found in db.newest(100)] == list(range(15, 25))
    db.close()


@pytest.mark.parametrize(
    "damage", [b"not a database at all, but long enough" * 40, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_log_is_set_aside_and_a_new_one_begun(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "events.db"
    path.write_bytes(damage)
    db = EventsDb.open(path)
    assert db.set_aside is not None
    assert db.set_aside.read_bytes() == damage
    db.append([event(1)])
    assert db.newest(1) == [event(1)]
    db.close()


def test_a_page_damaged_in_the_middle_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    db = EventsDb.open(path)
    for number in range(200):
        db.append([event(number)])
    db.close()
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xa5" * 8192
    path.write_bytes(content)
    again = EventsDb.open(path)
    assert again.set_aside is not None
    again.close()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"Cannot open .*events\.db"):
        EventsDb.open(tmp_path / "gone" / "events.db")


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    db = EventsDb.open(path)
    db.append([event(1)])
    connection: sqlite3.Connection = db._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}").close()
    with pytest.raises(StorageError, match="free some space"):
        for number in range(2, 1000):
            db.append([event(number)])
    stored = db.newest(10_000)
    assert stored == [event(number) for number in range(1, len(stored) + 1)]
    db.close()
