"""`edge-agent sync --from`: an operator with a shell and a USB stick, on a device that has no store to poll."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agent import AgentProcess
from support.fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def agent(tmp_path: Path, fleet: Fleet) -> Iterator[AgentProcess]:
    """A device without a network, which has the fleet's root."""
    settings = {"device": {"id": "offline"}, "store": {"root": str(fleet.root)}}
    with AgentProcess(tmp_path / "device", settings) as process:
        yield process


def sync_from(agent: AgentProcess, folder: str, cwd: Path) -> tuple[int, str]:
    """Return the exit code and what was said, by the command or of the outcome."""
    command = [Path(sys.executable).parent / "edge-agent", "sync", "--json", "--from", folder]
    ended = subprocess.run(
        [*command, "--socket", agent.runtime / "admin.sock"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=agent.environment,
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, json.loads(ended.stdout)["message"] if ended.stdout else ended.stderr


def test_versions_come_by_stick_and_serve_once_it_is_gone(
    agent: AgentProcess, fleet: Fleet, tmp_path: Path
) -> None:
    for version, factor in (("1", 2.0), ("2", 3.0)):
        fleet.release(version, factor)
        stick = Path(shutil.copytree(fleet.store, tmp_path / "usb stick/store"))
        assert sync_from(agent, "usb stick/store", tmp_path)[0] == 0
        shutil.rmtree(stick.parent)
        assert agent.factor() == (factor, version)
    assert agent.reported().problems == ()


def test_what_is_wrong_with_it_is_one_sentence_and_what_runs_goes_on(
    agent: AgentProcess, fleet: Fleet, tmp_path: Path
) -> None:
    fleet.release("1", 2.0)
    agent.sync(folder=str(fleet.store))
    fleet.release("2", 3.0)
    stick = Path(shutil.copytree(fleet.store, tmp_path / "stick"))
    (stick / fleet.blob("m", "2").relative_to(fleet.store)).unlink()

    code, said = sync_from(agent, str(tmp_path / "none"), tmp_path)
    assert (code, said) == (1, f"The folder {tmp_path / 'none'} is not there: is the medium mounted?")
    code, said = sync_from(agent, str(tmp_path), tmp_path)
    assert code == 1
    assert said.startswith(f"The folder {tmp_path} holds no store")
    code, said = sync_from(agent, "stick", tmp_path)
    assert code == 1
    assert said.endswith("copy the store to this folder again, whole, or publish it again.")

    assert agent.factor() == (2.0, "1")
    shutil.copytree(fleet.store, stick, dirs_exist_ok=True)
    assert sync_from(agent, "stick", tmp_path)[0] == 0
    assert agent.factor() == (3.0, "2")
