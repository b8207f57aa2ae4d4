from pathlib import Path

from edge_agent.control.complaints import BURST, REPEAT_S, Complaints
from edge_agent.control.journal import Journal
from edge_agent.store.events_db import EventsDb


def test_the_same_complaint_is_told_once_an_hour_and_few_at_once(tmp_path: Path) -> None:
    now_s = 1000.0
    journal = Journal(lambda: EventsDb.open(tmp_path / "events.db"))
    complaints = Complaints(journal, lambda: now_s)

    def told() -> int:
        return len(journal.newest(1000))

    for _ in range(3):
        complaints.tell("One thing is wrong.")
    assert told() == 1
    now_s += REPEAT_S
    complaints.tell("One thing is wrong.")
    assert told() == 2
    for number in range(100):
        complaints.tell(f"Thing {number} is wrong.")
    assert told() == 1 + BURST
    now_s += 60.0
    complaints.tell("Another thing is wrong.")
    assert told() == 2 + BURST
    journal.close()
