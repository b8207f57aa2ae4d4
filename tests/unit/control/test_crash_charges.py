"""Crashes with several suspects: one is taken at a time, and taken back when it was not to blame."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.control.crash_charges import CrashCharges
from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.quarantine import Quarantine
from edge_agent.control.supervise import ServingEnded
from edge_agent.documents.plan import Plan, VersionPlan, with_id
from edge_agent.documents.settings import SupervisorSettings
from edge_agent.store.events_db import EventsDb
from edge_agent.store.state import DeployedState


def version(model: str) -> VersionPlan:
    return VersionPlan(model, "1", "onnx", "fp32", model * 64, f"/{model}", 1, (), ())


A, B = version("a"), version("b")
PLAN = with_id(Plan("", "stable", "default", 1, (A, B)))


class Desk:
    def __init__(self, folder: Path) -> None:
        self.state = DurableState(folder / "state.json", DeployedState(current=PLAN))
        self.journal = Journal(lambda: EventsDb.open(folder / "events.db", keep_unsent=False))
        quarantine = Quarantine(self.state, self.journal)
        self._charges = CrashCharges(SupervisorSettings(), self.state, self.journal, quarantine)

    def crash(self, *suspects: VersionPlan, times: int = 3) -> None:
        end = ServingEnded("was killed by SIGSEGV", tuple(sorted(one.key for one in suspects)), hung=False)
        for _ in range(times):
            self._charges.charge(end, PLAN)

    @property
    def quarantined(self) -> set[str]:
        return {entry.model for entry in self.state.value.quarantine.values()}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.journal.close()


def test_an_innocent_suspect_is_taken_back_once_the_other_crashes_without_it(desk: Desk) -> None:
    desk.crash(A, B)
    assert desk.quarantined == {"b"}
    assert "or one of a/1/aaaaaaaaaaaa did" in desk.state.value.quarantine[B.sha256].reason
    desk.crash(A, times=2)
    assert desk.quarantined == {"b"}
    desk.crash(A, times=1)
    assert desk.quarantined == {"a"}
    [released] = [event for event in desk.journal.newest(50) if event.type == "released"]
    assert released.model == "b"
    assert A.key in released.message
    assert desk.state.value.doubted == {}


def test_a_guilty_suspect_stays_away_while_the_other_goes_on(desk: Desk) -> None:
    desk.crash(A, B)
    assert desk.quarantined == {"b"}
    assert desk.state.value.incidents == ()


def test_who_crashed_alone_is_not_doubted(desk: Desk) -> None:
    desk.crash(A, B, times=2)
    desk.crash(A, times=1)
    assert desk.quarantined == {"a"}
    assert desk.state.value.doubted == {}
    assert "or one of" not in desk.state.value.quarantine[A.sha256].reason


def test_the_doubt_outlives_a_restart(desk: Desk, tmp_path: Path) -> None:
    desk.crash(A, B)
    kept = dataclasses.replace(desk.state.value)
    again = Desk(tmp_path)
    again.state.value = kept
    again.crash(A)
    assert again.quarantined == {"a"}
    again.journal.close()
