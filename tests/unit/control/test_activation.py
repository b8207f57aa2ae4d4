"""Plans that serving does not apply, on a real state folder: who is to blame, and what is tried again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.control import deferral
from edge_agent.documents import ipc
from edge_agent.documents.plan import Plan
from support.supervisor import Supervisor


@pytest.fixture
def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """One that serves version 1, and waits for 100 s and twice as long each time."""
    monkeypatch.setattr(deferral, "probe_delay_s", lambda tries, _: 100.0 * tries)
    supervisor = Supervisor(tmp_path / "state")
    supervisor.apply()
    supervisor.deploy(1, supervisor.version("a", "1"))
    supervisor.apply()
    yield supervisor
    supervisor.close()


def activating(it: Supervisor) -> Plan:
    it.deploy(2, it.version("a", "2"))
    assert it.applying is not None
    return it.applying


def later(it: Supervisor, seconds: float) -> None:
    now_s = it.deployer._deferral._clock() + seconds
    it.deployer._deferral._clock = lambda: now_s
    it.deployer.step()


def refuse(it: Supervisor, *, by_device: bool) -> None:
    plan = it.applying
    assert plan is not None
    key = plan.versions[0].key
    it.say(ipc.Refused(plan_id=plan.id, key=key, reason="It lacks memory.", by_device=by_device))


def test_a_version_that_does_not_load_is_quarantined(it: Supervisor) -> None:
    activating(it)
    refuse(it, by_device=False)
    assert [entry.version for entry in it.value.quarantine.values()] == ["2"]


def test_one_that_does_not_load_here_now_waits(it: Supervisor) -> None:
    plan = activating(it)
    refuse(it, by_device=True)
    assert it.value.quarantine == {}
    assert it.value.target == plan
    assert it.applying is None
    assert it.deployer.problems == ["a 2 could not be loaded, and will be again: It lacks memory."]
    assert len(it.events("warning")) == 1
    later(it, 101)
    assert it.applying == plan
    refuse(it, by_device=True)
    later(it, 101)
    assert it.applying is None, "the second wait is longer"
    later(it, 100)
    it.apply()
    assert it.value.current == plan
    assert it.deployer.problems == []


def test_what_waits_does_not_hold_up_a_newer_deployment(it: Supervisor) -> None:
    activating(it)
    refuse(it, by_device=True)
    newer = it.deploy(3, it.version("a", "3"))
    assert it.applying == newer
