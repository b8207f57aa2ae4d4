"""What shall not run here, and how it may again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.quarantine import LIMIT, Quarantine, reasons
from edge_agent.documents.errors import NotFoundError
from edge_agent.documents.plan import Plan, VersionPlan, with_id
from edge_agent.policy.crashes import Incident
from edge_agent.store import state as state_file
from edge_agent.store.events_db import EventsDb
from edge_agent.store.state import DeployedState, Measured, Quarantined


def version(model: str, number: str = "1") -> VersionPlan:
    return VersionPlan(model, number, "onnx", "fp32", model * 64, f"/{model}", 1, (), ())


A, B = version("a"), version("b")
DEPLOYED = DeployedState(
    current=with_id(Plan(versions=(A,))),
    target=with_id(Plan(versions=(B,))),
    passed={A.key: Measured(), B.key: Measured()},
    incidents=(Incident(1.0, (A.key, B.key)),),
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(lambda: EventsDb.open(tmp_path / "events.db", keep_unsent=False))
    yield journal
    journal.close()


@pytest.fixture
def state(tmp_path: Path) -> DurableState:
    return DurableState(tmp_path / "state.json", DEPLOYED)


@pytest.fixture
def quarantine(state: DurableState, journal: Journal) -> Quarantine:
    return Quarantine(state, journal, clock=lambda: 7.0)


def test_what_is_added_is_on_disk_and_an_event(
    quarantine: Quarantine, state: DurableState, journal: Journal, tmp_path: Path
) -> None:
    quarantine.add_named("b", "1", "It smells.", "root")
    entry = Quarantined("It smells.", "b", "1", 7.0, "root")
    assert state_file.load(tmp_path / "state.json")[0].quarantine == {B.sha256: entry}
    assert reasons(state.value) == {B.sha256: "It smells."}
    [event] = journal.newest(9)
    assert (event.type, event.model, event.version, event.actor) == ("quarantined", "b", "1", "root")


def test_only_what_is_here_can_be_named(quarantine: Quarantine) -> None:
    with pytest.raises(NotFoundError, match="c 1 is not on this device; the versions are: a 1, b 1"):
        quarantine.add_named("c", "1", "no", "root")
    with pytest.raises(NotFoundError, match="a 1 is not in quarantine; the versions there are: none"):
        quarantine.digests("a", "1")


def test_what_is_released_has_to_pass_again_and_is_charged_with_nothing(
    quarantine: Quarantine, state: DurableState, journal: Journal
) -> None:
    quarantine.add(A, "crashed")
    released = quarantine.release(quarantine.digests("a", "1"), "repaired", "root")
    assert [entry.reason for entry in released] == ["crashed"]
    assert state.value.quarantine == {}
    assert set(state.value.passed) == {B.key}
    assert all(A.key not in incident.suspects for incident in state.value.incidents)
    assert [(event.type, event.actor) for event in journal.newest(9)] == [
        ("quarantined", "agent"),
        ("released", "root"),
    ]


def test_the_oldest_gives_way(quarantine: Quarantine, state: DurableState) -> None:
    for number in range(LIMIT + 1):
        quarantine.add(VersionPlan("m", f"{number}", "onnx", "fp32", f"{number:064}", "", 1, (), ()), "bad")
    assert len(state.value.quarantine) == LIMIT
    assert f"{0:064}" not in state.value.quarantine
