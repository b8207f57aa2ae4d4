"""An operator with nothing but a shell: the commands over a real agent, with and without one running."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agent import CHECKOUT, AgentProcess, wait_until
from support.fleet import Fleet

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def agent(tmp_path: Path, fleet: Fleet) -> Iterator[AgentProcess]:
    store = {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600}
    with AgentProcess(tmp_path / "device", {"device": {"id": "device"}, "store": store}) as process:
        yield process


def run(agent: AgentProcess, *words: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "edge-agent", *words, "--config", agent.config]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert "Traceback" not in done.stderr
    return done


def told(agent: AgentProcess, *words: str, code: int = 0) -> Any:
    done = run(agent, *words, "--json")
    assert done.returncode == code, done
    return json.loads(done.stdout)


def local(agent: AgentProcess, fleet: Fleet, version: str) -> Path:
    name = fleet.blob("m", version).name
    return agent.state / "blobs" / name[:2] / name


def findings(answer: Any) -> list[str]:
    return [found["message"] for found in answer["findings"] if found["outcome"] != "ok"]


def two_versions(agent: AgentProcess, fleet: Fleet) -> None:
    for version, factor in (("1", 2.0), ("2", 3.0)):
        fleet.release(version, factor)
        agent.sync()
        wait_until(lambda v=version: agent.factor()[1] == v, "it serves")


@pytest.mark.slow
def test_a_version_is_put_into_quarantine_and_released(agent: AgentProcess, fleet: Fleet) -> None:
    two_versions(agent, fleet)
    assert "Nothing is in quarantine." in run(agent, "quarantine").stdout
    told(agent, "quarantine", "add", "m", "2", "--reason", "Wrong labels.")
    wait_until(lambda: agent.factor() == (2.0, "1"), "the version before serves")

    [entry] = told(agent, "quarantine")["quarantine"]
    assert (entry["model"], entry["version"], entry["reason"], entry["actor"]) == (
        "m",
        "2",
        "Wrong labels.",
        ME,
    )
    assert "Wrong labels." in run(agent, "quarantine").stdout
    assert "Wrong labels." in run(agent, "status").stdout
    assert f"(by {ME})" in run(agent, "events").stdout
    assert any("m 2 is in quarantine: Wrong labels." in line for line in findings(told(agent, "doctor")))
    agent.stop()
    agent.start()
    assert agent.factor() == (2.0, "1")

    told(agent, "quarantine", "release", "m", "2", "--reason", "They are right.")
    wait_until(lambda: agent.factor() == (3.0, "2"), "it serves again")
    [released] = agent.events("released")
    assert (released.actor, released.message, released.version) == (ME, "They are right.", "2")
    assert run(agent, "quarantine", "release", "m", "2").returncode == 2
    assert run(agent, "quarantine", "release").returncode == 2
    assert "is not on this device" in run(agent, "quarantine", "add", "m", "9").stderr
    assert told(agent, "quarantine", "release", "--all")["released"] == 0


@pytest.mark.slow
def test_what_is_damaged_is_found_and_repaired_by_a_sync(agent: AgentProcess, fleet: Fleet) -> None:
    two_versions(agent, fleet)
    assert told(agent, "verify")["sound"] is True
    local(agent, fleet, "2").write_bytes(b"rot")
    local(agent, fleet, "1").unlink()
    assert sorted(findings(told(agent, "verify", code=1))) == [
        "m 1, which served before: its model file is gone; no rollback to it works until it is deployed again.",
        "m 2, which serves: its model file is damaged; 'edge-agent sync --force' fetches it again.",
    ]
    assert told(agent, "sync", "--force")["status"] == "unchanged"
    assert len(findings(told(agent, "verify", code=1))) == 1
    assert agent.factor() == (3.0, "2")


@pytest.mark.slow
def test_what_the_disk_says_when_no_agent_runs(agent: AgentProcess, fleet: Fleet) -> None:
    two_versions(agent, fleet)
    told(agent, "quarantine", "add", "m", "1", "--reason", "Never again.")
    agent.stop()
    status = told(agent, "status", code=1)
    assert (status["agent"], status["reported"]["serial"]) == ("down", 2)
    assert [(one["version"], one["state"]) for one in status["reported"]["versions"]] == [("2", "stopped")]
    assert "Never again." in run(agent, "status").stdout
    assert told(agent, "models")["versions"][0]["probe"]["run_s"] > 0
    assert [event["type"] for event in told(agent, "events")["events"]][-1] == "stopped"
    assert told(agent, "quarantine")["quarantine"][0]["reason"] == "Never again."
    assert told(agent, "gc") == {"agent": "down", "files": {}, "parts": {}, "bytes": 0, "removed": False}
    assert told(agent, "verify")["sound"] is True
    assert "No agent is running here" in run(agent, "rollback").stderr
    for path, says in (
        (agent.state / "state.json", "could not be read"),
        (agent.state / "events.db", "damaged"),
    ):
        content = path.read_bytes()
        path.write_bytes(b"\0" * len(content))
        assert any(says in line for line in findings(told(agent, "verify", code=1)))
        path.write_bytes(content)
    timestamp = agent.state / "trust/current/timestamp.json"
    timestamp.write_bytes(timestamp.read_bytes().replace(b'"version"', b'"versiom"'))
    assert any("is not what was signed" in line for line in findings(told(agent, "verify", code=1)))
    agent.start()


def test_files_that_nothing_needs_are_removed_on_request(agent: AgentProcess, fleet: Fleet) -> None:
    two_versions(agent, fleet)
    stray = agent.state / "blobs/00" / ("0" * 64)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(bytes(1000))
    part = agent.state / "staging" / f"{'1' * 64}.part"
    part.write_bytes(bytes(500))
    fresh = agent.state / "staging" / f"{'2' * 64}.part"
    fresh.write_bytes(bytes(500))
    os.utime(part, (1e9, 1e9))
    plan = told(agent, "gc", "--dry-run")
    assert (plan["bytes"], plan["removed"]) == (1500, False)
    assert stray.exists()
    assert told(agent, "gc")["bytes"] == 1500
    assert not stray.exists()
    assert not part.exists()
    assert fresh.exists()
    assert told(agent, "verify")["sound"] is True
    [event] = agent.events("collected")
    assert event.actor == ME
    assert run(agent, "gc").stdout == "Nothing can go: every file here is needed.\n"


def test_a_rollback_says_who_and_why(agent: AgentProcess, fleet: Fleet) -> None:
    two_versions(agent, fleet)
    fleet.store.rename(fleet.store.with_name("gone"))
    told(agent, "rollback", "--reason", "doubles are counted")
    assert agent.factor() == (2.0, "1")
    [event] = agent.events("rolled_back")
    assert (event.actor, event.message.endswith("Reason: doubles are counted")) == (ME, True)


def test_doctor_finds_the_probe_confined_and_the_metadata_good(agent: AgentProcess, fleet: Fleet) -> None:
    two_versions(agent, fleet)
    found = {(one["check"], one["outcome"]) for one in told(agent, "doctor")["findings"]}
    assert {("probe", "ok"), ("versions", "ok"), ("trust", "ok"), ("store", "ok"), ("disk", "ok")} <= found
