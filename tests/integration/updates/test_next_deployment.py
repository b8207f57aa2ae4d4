"""A deployment that cannot be reached, or cannot be tried, never keeps the next one waiting."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agent import AgentProcess, wait_until
from support.fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def agent(tmp_path: Path, fleet: Fleet) -> Iterator[AgentProcess]:
    store = {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600}
    with AgentProcess(tmp_path / "device", {"device": {"id": "device"}, "store": store}) as process:
        fleet.release("1", 2.0)
        process.sync()
        yield process


def test_one_whose_files_are_missing(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("2", 3.0)
    fleet.blob("m", "2").unlink()
    assert agent.sync()["status"] == "failed"
    assert agent.factor() == (2.0, "1")
    fleet.release("3", 4.0)
    assert agent.sync()["status"] == "activated"
    assert agent.factor() == (4.0, "3")


def test_one_of_whose_models_only_a_part_is_there(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.publish("1", 5.0, name="other")
    fleet.publish("2", 3.0)
    fleet.deploy(m="2", other="1")
    fleet.blob("other", "1").unlink()
    assert agent.sync()["status"] == "failed"
    assert agent.factor() == (2.0, "1"), "half of a deployment serves"
    fleet.deploy(m="2", other="1")
    assert agent.sync()["status"] == "failed"
    fleet.publish("2", 6.0, name="other")
    fleet.deploy(other="2")
    assert agent.sync()["status"] == "activated"
    assert (agent.factor(), agent.factor("other")) == ((3.0, "2"), (6.0, "2"))


def test_a_store_that_goes_away_half_way(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("2", 3.0, padding_bytes=8 * 2**20)
    blob = fleet.blob("m", "2")
    content = blob.read_bytes()
    blob.write_bytes(content[: len(content) // 2])
    assert agent.sync()["status"] == "failed"
    away = fleet.store.rename(fleet.folder / "away")
    assert agent.sync()["status"] == "failed"
    away.rename(fleet.store)
    fleet.release("3", 4.0)
    assert agent.sync()["status"] == "activated"
    assert agent.factor() == (4.0, "3")


def test_one_that_is_on_trial(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("2", 3.0)
    agent.sync()
    wait_until(lambda: agent.reported().bake is not None, "the second version is on trial")
    fleet.release("3", 4.0)
    assert agent.sync()["status"] == "activated"
    bake = agent.reported().bake
    assert bake is not None
    assert [found.version for found in bake.versions] == ["3"]
    assert agent.ask("rollback")["serial"] == 1, "what was on trial is nothing to go back to"
    assert agent.factor() == (2.0, "1")
