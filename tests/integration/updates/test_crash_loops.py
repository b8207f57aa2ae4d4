"""Versions that take serving, or the whole device, down while they are loaded: real agents, killed as often."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.policy.attempts import RESETS_LIMIT
from support.agent import AgentProcess, wait_until
from support.fleet import Fleet

PLUGIN = Path(__file__).parents[2] / "support" / "plugin"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def armed(tmp_path: Path) -> Path:
    """The file whose presence lets versions go wrong while they are loaded."""
    return tmp_path / "armed"


@pytest.fixture
def agent(tmp_path: Path, fleet: Fleet, armed: Path) -> Iterator[AgentProcess]:
    store = {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600}
    environment = {"PYTHONPATH": str(PLUGIN), "CRASHING_ENGINE_ARMED": str(armed)}
    process = AgentProcess(tmp_path / "device", {"device": {"id": "device"}, "store": store}, environment)
    process.start()
    yield process
    assert process.process is not None
    if process.process.poll() is None:
        process.stop()


def deploy_faulty(agent: AgentProcess, fleet: Fleet, armed: Path, how: str) -> None:
    """Have version 1 served, and deploy a version 2 that fails so."""
    fleet.release("1", 2.0)
    agent.sync()
    armed.touch()
    fleet.publish_faulty("2", how)
    fleet.deploy(m="2")


def went_down(agent: AgentProcess) -> None:
    """Wait until the supervisor is gone, which a version that was being loaded has done."""
    assert agent.process is not None
    process = agent.process
    wait_until(lambda: process.poll() is not None, "the agent is gone")
    attempt = json.loads((agent.state / "state.json").read_text())["attempt"]
    assert attempt is not None, "the attempt was not written before the load"


def another_boot(agent: AgentProcess) -> None:
    """Make it look as if the machine had been started again since."""
    path = agent.state / "state.json"
    state = json.loads(path.read_text())
    state["attempt"]["boot"] = "the boot before"
    path.write_text(json.dumps(state))


@pytest.mark.slow
def test_a_version_that_takes_the_device_down_is_given_up(
    agent: AgentProcess, fleet: Fleet, armed: Path
) -> None:
    deploy_faulty(agent, fleet, armed, "3.0 load_kills")
    agent.ask("sync", wait=False, force=False, folder=None)
    for _ in range(RESETS_LIMIT):
        went_down(agent)
        another_boot(agent)
        agent.start(wait=False)
    wait_until(lambda: agent.is_ready() and agent.events("quarantined"), "it is given up")
    [event] = agent.events("quarantined")
    assert event.version == "2"
    assert f"the device went down {RESETS_LIMIT} times in a row" in event.message
    assert agent.factor() == (2.0, "1")
    fleet.release("3", 4.0)
    agent.sync()  # or the look that asks for another variant has found it already
    assert agent.factor() == (4.0, "3")


@pytest.mark.slow
def test_of_several_that_served_before_the_one_to_blame_is_found(
    agent: AgentProcess, fleet: Fleet, armed: Path
) -> None:
    for name in ("a", "z"):
        fleet.publish("1", 5.0, name=name)
    fleet.publish_faulty("1", "3.0 load_kills", name="m")
    fleet.deploy(a="1", m="1", z="1")
    agent.sync()
    agent.kill()
    armed.touch()
    agent.start(wait=False)
    for _ in range(RESETS_LIMIT):
        went_down(agent)
        another_boot(agent)
        agent.start(wait=False)
    wait_until(lambda: agent.is_ready() and agent.events("quarantined"), "one is given up")
    assert [event.model for event in agent.events("quarantined")] == ["m"]
    wait_until(lambda: [found.state for found in agent.reported().versions].count("serving") == 2, "the others")
    assert agent.factor("a") == agent.factor("z") == (5.0, "1")


@pytest.mark.slow
def test_kills_and_power_cuts_of_a_sound_version_are_forgotten_once_it_serves(
    agent: AgentProcess, fleet: Fleet, armed: Path
) -> None:
    fleet.publish_faulty("1", "3.0 load_kills", name="m")
    fleet.deploy(m="1")
    agent.sync()
    agent.kill()
    armed.touch()
    for number in range(RESETS_LIMIT + 1):
        agent.start(wait=False)
        went_down(agent)
        if number % 2:
            another_boot(agent)
    armed.unlink()
    agent.start()
    wait_until(lambda: agent.factor() == (3.0, "1"), "it serves")
    # Serving answers before the supervisor has written that it does.
    wait_until(lambda: _stored(agent)["attempt"] is None, "the attempt is over")
    assert _stored(agent)["interruptions"] == {}
    assert agent.events("quarantined") == []


def test_a_version_that_crashes_serving_while_it_is_loaded_is_quarantined(
    agent: AgentProcess, fleet: Fleet, armed: Path
) -> None:
    deploy_faulty(agent, fleet, armed, "3.0 load_crashes")
    agent.sync()
    [event] = agent.events("quarantined")
    assert (event.version, len(agent.events("crashed"))) == ("2", 3)
    wait_until(lambda: agent.factor() == (2.0, "1"), "the old version serves")
    assert json.loads((agent.state / "state.json").read_text())["interruptions"] == {}


def test_a_version_whose_loads_end_in_kills_from_outside_waits(
    agent: AgentProcess, fleet: Fleet, armed: Path
) -> None:
    deploy_faulty(agent, fleet, armed, "3.0 load_ends")
    outcome = agent.sync()
    assert outcome["status"] == "failed"
    assert "m 2 could not be loaded, and will be again: The serving process was killed" in outcome["message"]
    assert len(agent.events("crashed")) == 2
    wait_until(agent.is_ready, "serving is back")
    assert agent.factor() == (2.0, "1")
    assert outcome["message"] in agent.reported().problems
    assert agent.events("quarantined") == []
    armed.unlink()
    assert agent.sync(now=True)["status"] == "activated", "an operator does not have to wait"
    assert agent.factor() == (3.0, "2")


def _stored(agent: AgentProcess) -> Any:
    return json.loads((agent.state / "state.json").read_text())
