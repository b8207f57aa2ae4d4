"""A real agent, and versions that may not be activated yet."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.documents.deployment import Arm, ModelDeployment
from edge_fleet.deploy import Change, deploy
from support.agent import AgentProcess, wait_until
from support.fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


def hours_from_now(first: float, last: float) -> str:
    """Return the window that opens in `first` hours and closes in `last` hours."""
    start, end = (datetime.now(UTC) + timedelta(hours=hours) for hours in (first, last))
    return f"{start:%H:%M}-{end:%H:%M} UTC"


def device(folder: Path, fleet: Fleet, **updates: object) -> AgentProcess:
    store = {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600}
    return AgentProcess(folder / "device", {"device": {"id": "device"}, "store": store, "updates": updates})


def command(agent: AgentProcess, *words: str) -> str:
    socket = str(agent.runtime / "admin.sock")
    command = [Path(sys.executable).parent / "edge-agent", *words, "--socket", socket]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def candidate(fleet: Fleet, version: str, **change: object) -> None:
    models = {"m": ModelDeployment(arms=(Arm(version=version),))}
    wanted = Change(candidate=models, **change)  # type: ignore[arg-type]
    deploy(fleet.repository, fleet.keys, "default", wanted, datetime.now(UTC))


@pytest.mark.slow
def test_a_version_waits_for_the_devices_window_and_an_operator_need_not(tmp_path: Path, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    with device(tmp_path, fleet, window=hours_from_now(3, 5)) as agent:
        # The first version is served at once: nothing is disturbed by it.
        wait_until(lambda: agent.reported().serial == 1, "the first version is served")
        fleet.release("2", 3.0)

        assert command(agent, "sync").startswith(
            "Serial 2 is here and waits for the maintenance window that opens"
        )

        report = agent.reported()
        assert (report.serial, report.target_serial) == (1, 2)
        (wait,) = report.waits
        assert wait.reason == "window"
        assert wait.until_s is not None
        assert 2.9 < (wait.until_s - datetime.now(UTC).timestamp()) / 3600 < 3.1
        assert report.problems == ()
        assert agent.factor() == (2.0, "1")
        shown = command(agent, "status")
        assert f"Waits     {wait.message}" in shown
        # Nothing new in the store, and still it is said what is waited for.
        assert command(agent, "sync").startswith("Serial 2 is here and waits")

        agent.stop()
        agent.start()
        wait_until(lambda: agent.reported().waits, "the version that was fetched still waits")

        assert command(agent, "sync", "--now") == "Serial 2 runs already.\n"
        assert agent.factor() == (3.0, "2")
        assert agent.reported().waits == ()


def test_a_version_waits_without_a_store_and_is_activated_by_hand(tmp_path: Path, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    with device(tmp_path, fleet, window=hours_from_now(3, 5)) as agent:
        wait_until(lambda: agent.reported().serial == 1, "the first version is served")
        fleet.release("2", 3.0)
        agent.sync()
        fleet.store.rename(fleet.folder / "elsewhere")
        agent.sync(now=True)
        wait_until(lambda: agent.factor() == (3.0, "2"), "the version is served")


def test_an_open_window_holds_nothing_back(tmp_path: Path, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    with device(tmp_path, fleet, window=hours_from_now(-2, 2)) as agent:
        wait_until(lambda: agent.reported().serial == 1, "the first version is served")
        fleet.release("2", 3.0)
        assert agent.sync()["status"] == "activated"


@pytest.mark.slow
def test_a_candidate_waits_for_its_rollouts_window_and_the_way_back_does_not(
    tmp_path: Path, fleet: Fleet
) -> None:
    fleet.release("1", 2.0)
    fleet.publish("2", 3.0)
    with device(tmp_path, fleet) as agent:
        wait_until(lambda: agent.reported().serial == 1, "the first version is served")
        candidate(fleet, "2", percentage=100.0, window=hours_from_now(3, 5))
        assert agent.sync()["status"] == "waiting"
        assert agent.factor() == (2.0, "1")
        candidate(fleet, "2", window="")
        assert agent.sync()["status"] == "activated"
        assert agent.factor() == (3.0, "2")

    agent.settings["updates"] = {"window": hours_from_now(3, 5)}
    with agent:
        deploy(fleet.repository, fleet.keys, "default", Change(drop_candidate=True), datetime.now(UTC))
        assert agent.sync()["status"] == "activated"
        assert agent.factor() == (2.0, "1")


def test_a_window_that_is_none_is_an_error_of_the_settings(tmp_path: Path, fleet: Fleet) -> None:
    agent = device(tmp_path, fleet, window="2-5")
    agent.write_settings()
    words = [Path(sys.executable).parent / "edge-agent", "config", "check", "--config", agent.config]
    checked = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 2
    assert "updates.window has '2-5', which is no window such as '02:00-05:00'" in checked.stderr


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_version_is_activated_by_itself_when_the_window_opens(tmp_path: Path, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    fleet.publish("2", 3.0)
    with device(tmp_path, fleet) as agent:
        wait_until(lambda: agent.reported().serial == 1, "the first version is served")
        # There is time to fetch and try the version before.
        opens = (datetime.now(UTC) + timedelta(seconds=90)).replace(second=0, microsecond=0)
        window = f"{opens:%H:%M}-{opens + timedelta(minutes=2):%H:%M} UTC"
        candidate(fleet, "2", percentage=100.0, window=window)
        assert agent.sync()["status"] == "waiting"
        (wait,) = agent.reported().waits
        assert wait.until_s == opens.timestamp()
        wait_until(lambda: agent.factor() == (3.0, "2"), "the version is served", limit_s=150)
        assert 0 <= datetime.now(UTC).timestamp() - opens.timestamp() < 15
