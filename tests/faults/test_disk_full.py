"""The agent's disk fills up, with more or less left, so that each step of an update meets its end."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_agent.documents.errors import UnavailableError
from support.agent import AgentProcess, wait_until
from support.disks import fill, small_disk
from support.fleet import Fleet
from support.models import affine_onnx, package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SIZE_BYTES = 24 * 2**20
LEFT_BYTES = (0, 4096, 16_384, 32_768, 65_536, 131_072, 262_144, 2**20, 4 * 2**20, 5 * 2**20, 6 * 2**20)
"""Left free: too little for the first note of a look, up to all but the unpacked file."""


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def agent(tmp_path: Path, fleet: Fleet) -> Iterator[AgentProcess]:
    store = {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600}
    agent = AgentProcess(
        tmp_path / "device",
        {"device": {"id": "device"}, "store": store, "outcomes": {"commit_interval_s": 0.0}},
    )
    release(fleet, 1)
    with small_disk(agent.state, SIZE_BYTES), agent:
        wait_until(lambda: agent.reported().serial == 1, "the first version serves")
        yield agent


def release(fleet: Fleet, number: int) -> None:
    """Publish and deploy a version that multiplies by its number and travels compressed."""
    model = affine_onnx(fleet.folder / f"{number}.onnx", float(number), padding_bytes=1_500_000, sparsity=0.6)
    folder = fleet.folder / f"packages/m/{number}"
    fleet.publish_package(package(folder, model, name="m", version=f"{number}", factor=number, packed=True))
    fleet.deploy(m=f"{number}")


def leave(disk: Path, size_bytes: int) -> Path:
    """Fill the disk but for so many bytes; return the file to remove."""
    ballast = fill(disk)
    with ballast.open("r+b") as file:
        file.truncate(max(0, ballast.stat().st_size - size_bytes))
    return ballast


def is_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text and "Traceback" not in text and "Errno" not in text


def tell_outcome(agent: AgentProcess) -> bool:
    """Tell an outcome; return whether it was taken. What is refused is refused in a sentence."""
    with agent.client() as client:
        prediction_id = client.infer("m", {"x": np.ones((1, 3), np.float32)}).prediction_id
        try:
            client.outcome("m", prediction_id, value=1.0)
        except UnavailableError as error:
            refusal = str(error)
        else:
            return True
    assert is_sentence(refusal), refusal
    return False


def lacks_space(agent: AgentProcess) -> bool:
    return any("space" in problem for problem in agent.reported().problems)


def test_whatever_is_left_it_serves_says_so_and_goes_on_once_there_is_space(
    agent: AgentProcess, fleet: Fleet
) -> None:
    stopped_at = set()
    for number, left_bytes in enumerate(LEFT_BYTES, start=2):
        running = agent.factor()
        release(fleet, number)
        ballast = leave(agent.state, left_bytes)
        outcome = agent.sync()
        assert is_sentence(outcome["message"]), outcome
        new = (float(number), f"{number}")
        assert agent.factor() == (new if outcome["status"] == "activated" else running)
        stopped_at.add(outcome["message"].partition(":")[0] if outcome["status"] == "failed" else "")
        tell_outcome(agent)
        assert all(is_sentence(problem) for problem in agent.reported().problems)
        if outcome["status"] != "activated":
            assert agent.reported().problems
        ballast.unlink()
        assert agent.sync(force=True)["status"] in ("activated", "unchanged")
        assert agent.factor() == new
        assert tell_outcome(agent)
        wait_until(lambda: not agent.reported().problems, "nothing is wrong any more")
    print(f"stopped at: {sorted(stopped_at)}")
    assert len(stopped_at) >= 3, stopped_at
    kinds = {event.type for event in agent.events()}
    assert not kinds & {"quarantined", "crashed", "hung", "state_damaged"}, kinds


def test_it_starts_serves_and_rolls_back_on_a_full_disk(agent: AgentProcess, fleet: Fleet) -> None:
    release(fleet, 2)
    agent.sync()
    agent.stop()
    ballast = leave(agent.state, 0)
    agent.start()
    wait_until(lambda: agent.reported().versions, "it serves all the same")
    assert agent.factor() == (2.0, "2")
    agent.ask("rollback")
    assert agent.factor() == (1.0, "1")
    wait_until(lambda: lacks_space(agent), "it says so")
    ballast.unlink()
    wait_until(lambda: not lacks_space(agent), "what waited is stored", 60)
    agent.stop()
    agent.start()
    wait_until(lambda: agent.reported().versions, "it serves after a restart")
    assert agent.factor() == (1.0, "1")
    assert [event.serial for event in agent.events("rolled_back")] == [1]
