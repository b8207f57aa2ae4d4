"""The whole agent: real processes, a real signed store in a folder, real ONNX models."""

import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from edge_agent.documents.errors import EdgeAgentError, NotFoundError
from edge_fleet.keys import KeyFolder
from edge_fleet.repository import Repository
from support.agent import AgentProcess, wait_until
from support.fleet import Fleet
from support.models import affine_onnx, package

PLUGIN = Path(__file__).parent.parent / "support" / "plugin"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def agent(tmp_path: Path, fleet: Fleet) -> Iterator[AgentProcess]:
    process = device(tmp_path, fleet)
    with process:
        yield process


def device(tmp_path: Path, fleet: Fleet, name: str = "device", **sections: dict[str, object]) -> AgentProcess:
    store = {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600}
    return AgentProcess(
        tmp_path / name,
        {"device": {"id": name}, **sections, "store": {**store, **sections.get("store", {})}},
        {"PYTHONPATH": str(PLUGIN)},
    )


@contextmanager
def small_disk(agent: AgentProcess) -> Iterator[None]:
    """Give the agent's state folder a file system of 8 MiB: mounted by root, or in a user's own namespace."""
    agent.state.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(agent.state)]
    if os.geteuid() != 0:
        namespace = ("unshare", "--user", "--map-root-user", "--mount")
        agent.wrapper = (*namespace, "sh", "-c", f'{shlex.join(mount)} && exec "$@"', "sh")
        yield
        return
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", agent.state], check=True)


# --- the way of a version -----------------------------------------------------------------------------------


def test_an_empty_agent_is_ready_and_takes_up_what_is_deployed(agent: AgentProcess, fleet: Fleet) -> None:
    wait_until(lambda: agent.reported().sync.state == "ok", "the first look at the store is over")
    assert agent.reported().versions == ()
    with pytest.raises(NotFoundError):
        agent.factor()
    fleet.release("1", 2.0)
    assert agent.sync()["status"] == "activated"
    assert agent.factor() == (2.0, "1")
    reported = agent.reported()
    assert (reported.serial, reported.group, reported.device) == (1, "default", "device")
    assert [(found.version, found.state) for found in reported.versions] == [("1", "serving")]
    assert [event.type for event in agent.events()][-3:] == ["installed", "probed", "activated"]


def test_the_poll_interval_finds_new_versions(tmp_path: Path, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    with device(tmp_path, fleet, store={"poll_interval_s": 1}) as agent:
        wait_until(lambda: agent.reported().serial == 1, "the first version serves")
        fleet.release("2", 3.0)
        wait_until(lambda: agent.reported().serial == 2, "the second version serves")
        assert agent.factor() == (3.0, "2")


def test_a_second_look_at_an_unchanged_store_says_so(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    assert agent.sync()["status"] == "unchanged"
    assert agent.sync(force=True)["status"] == "unchanged"
    assert agent.factor() == (2.0, "1")


@pytest.mark.slow
def test_a_swap_under_load_fails_no_request_and_mixes_no_answer(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    stop, failures, seen = threading.Event(), [], Counter[str]()

    def load() -> None:
        with agent.client() as client:
            while not stop.is_set():
                try:
                    result = client.infer("m", {"x": np.ones((1, 3), np.float32)})
                except EdgeAgentError as error:
                    failures.append(str(error))
                    continue
                answer = round(float(result.outputs["y"][0, 0]), 3)
                seen[result.model_version] += 1
                if answer != {"1": 2.0, "2": 3.0, "3": 4.0}[result.model_version]:
                    failures.append(f"version {result.model_version} answered {answer}")

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for version, factor in (("2", 3.0), ("3", 4.0)):
            fleet.release(version, factor, padding_bytes=3 * 2**20)
            assert agent.sync()["status"] == "activated"
            reached = seen[version]
            wait_until(lambda v=version, r=reached: seen[v] > r, "the new version answers")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert all(seen[version] for version in "123")


def test_files_that_no_plan_needs_are_removed(agent: AgentProcess, fleet: Fleet) -> None:
    for number in range(1, 5):
        fleet.release(str(number), float(number), bake_s=0)
        agent.sync()
    kept = {path.name for path in (agent.state / "blobs").glob("??/*")}
    assert fleet.blob("m", "4").name in kept
    assert fleet.blob("m", "3").name in kept
    assert fleet.blob("m", "1").name not in kept


def local_blob(agent: AgentProcess, fleet: Fleet, version: str) -> Path:
    name = fleet.blob("m", version).name
    return agent.state / "blobs" / name[:2] / name


@pytest.mark.slow
def test_a_damaged_file_waits_for_the_store_without_a_storm(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    fleet.store.rename(fleet.folder / "gone")
    local_blob(agent, fleet, "1").write_bytes(b"rot")
    os.kill(agent.ask("status")["process"]["serving_pid"], signal.SIGKILL)
    wait_until(lambda: agent.reported().sync.state == "failed", "the store is found to be gone")
    time.sleep(3)
    assert len(agent.events("state_damaged")) == 1
    (fleet.folder / "gone").rename(fleet.store)
    assert agent.sync()["status"] == "unchanged"
    wait_until(lambda: agent.reported().versions[0].state == "serving", "the file is back and serves")


def test_a_file_that_can_be_neither_read_nor_removed_is_left_out(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.publish("1", 5.0, name="other")
    fleet.release("1", 2.0)
    fleet.deploy(other="1")
    agent.sync()
    blob = local_blob(agent, fleet, "1")
    blob.unlink()
    blob.mkdir()
    os.kill(agent.ask("status")["process"]["serving_pid"], signal.SIGKILL)
    wait_until(lambda: agent.reported().versions[0].state == "left_out", "m is left out")
    wait_until(lambda: agent.reported().versions[1].state == "serving", "the other model serves on")
    assert agent.factor("other") == (5.0, "1")
    blob.rmdir()
    agent.sync(force=True)
    wait_until(lambda: agent.reported().versions[0].state == "serving", "the file is back and serves")


def test_a_file_that_rotted_here_is_fetched_again_and_not_quarantined(
    agent: AgentProcess, fleet: Fleet
) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    fleet.release("2", 3.0)
    agent.sync()
    local_blob(agent, fleet, "1").write_bytes(b"rot")
    fleet.deploy(m="1")
    assert agent.sync()["status"] == "activated"
    assert agent.factor() == (2.0, "1")
    assert len(agent.events("state_damaged")) == 1
    assert agent.events("quarantined") == []


# --- what must be refused -----------------------------------------------------------------------------------


def refused(agent: AgentProcess, sentence: str) -> None:
    """A sync that must change nothing: it says why, and version 1 goes on."""
    outcome = agent.sync()
    assert outcome["status"] == "refused", outcome
    assert sentence in outcome["message"]
    assert "\n" not in outcome["message"]
    assert agent.factor() == (2.0, "1")
    assert any(sentence in event.message for event in agent.events())
    assert any(sentence in problem for problem in agent.reported().problems)


def test_a_model_that_fails_its_golden_samples(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    model = affine_onnx(fleet.folder / "bad.onnx", 9.0)
    fleet.publish_package(package(fleet.folder / "bad", model, name="m", version="2", factor=3.0))
    fleet.deploy(m="2")
    refused(agent, "is off by")
    assert [event.version for event in agent.events("quarantined")] == ["2"]
    fleet.release("3", 4.0)
    assert agent.sync()["status"] == "activated"
    assert agent.factor() == (4.0, "3")


def test_the_next_variant_gets_its_chance(agent: AgentProcess, fleet: Fleet) -> None:
    wrong = affine_onnx(fleet.folder / "wrong.onnx", 9.0)
    right = fleet.folder / "right"
    right.write_text("3.0")
    fleet.publish_package(
        package(fleet.folder / "p", wrong, name="m", version="1", factor=3.0, alternatives={"crashing": right})
    )
    fleet.deploy(m="1")
    assert agent.sync()["status"] == "activated"
    assert agent.factor() == (3.0, "1")
    assert [found.engine for found in agent.reported().versions if found.state == "serving"] == ["crashing"]


def test_a_file_that_was_changed_in_the_store(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    fleet.release("2", 3.0)
    blob = fleet.blob("m", "2")
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    refused(agent, "digest")


def test_a_deployment_signed_by_a_stranger(agent: AgentProcess, fleet: Fleet, tmp_path: Path) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    stranger = Fleet(tmp_path / "stranger")
    for version in "123":
        stranger.release(version, 666.0)
    shutil.rmtree(fleet.store)
    shutil.copytree(stranger.store, fleet.store)
    outcome = agent.sync()
    assert outcome["status"] == "refused", outcome
    assert agent.factor() == (2.0, "1")


def test_metadata_that_has_expired(tmp_path: Path, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    with device(tmp_path, fleet) as agent:
        agent.sync()
        long_ago = datetime.now(UTC) - timedelta(days=30)
        with fleet.repository.editing(fleet.keys, long_ago) as edit:
            edit.renew("timestamp")
            edit.renew("snapshot")
        refused(agent, "expired")
        assert agent.stop() == 0
        agent.start()
        assert agent.factor() == (2.0, "1")


def test_a_store_that_is_away_is_told_and_found_again(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    away = fleet.store.rename(fleet.store.with_name("away"))
    assert agent.sync()["status"] == "failed"
    assert agent.reported().sync.state == "failed"
    assert agent.reported().problems
    assert agent.factor() == (2.0, "1")
    away.rename(fleet.store)
    fleet.release("2", 3.0)
    assert agent.sync()["status"] == "activated"
    assert agent.reported().problems == ()
    kinds = [event.type for event in agent.events()]
    assert kinds.index("sync_failed") < kinds.index("sync_recovered")


def test_a_version_that_is_not_published(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    fleet.release("2", 3.0)
    for manifest in (fleet.store / "targets" / "models" / "m").iterdir():
        manifest.unlink()
    outcome = agent.sync()
    assert outcome["status"] in ("failed", "refused")
    assert agent.factor() == (2.0, "1")


# --- crashes and hangs --------------------------------------------------------------------------------------


def poison(agent: AgentProcess, value: float) -> None:
    """Send an input that the serving process does not survive, and wait until another one answers."""
    before = agent.ask("status")["process"]["restarts"]
    with agent.client() as client, pytest.raises(EdgeAgentError):
        client.infer("m", {"x": np.full((1, 3), value, np.float32)})
    wait_until(lambda: agent.ask("status")["process"]["restarts"] > before, "serving starts again")
    wait_until(agent.is_ready, "the agent answers again")


def test_serving_is_back_at_once_when_it_is_killed_and_nobody_is_charged(
    agent: AgentProcess, fleet: Fleet
) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    for _ in range(4):
        before = agent.ask("status")["process"]
        os.kill(before["serving_pid"], signal.SIGKILL)
        wait_until(
            lambda b=before: agent.ask("status")["process"]["serving_pid"] not in (None, b["serving_pid"]),
            "another serving process",
        )
        wait_until(agent.is_ready, "it is ready")
        assert agent.factor() == (2.0, "1")
    assert agent.events("quarantined") == []
    assert [found.crashes for found in agent.reported().versions] == [0]


@pytest.mark.slow
def test_a_version_that_crashes_three_times_gives_way_to_the_one_before(
    agent: AgentProcess, fleet: Fleet
) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    fleet.publish_faulty("2", "3.0")
    fleet.deploy(m="2", bake_s=0)
    assert agent.sync()["status"] == "activated"
    for crashes in (1, 2):
        poison(agent, 666.0)
        assert agent.factor() == (3.0, "2")
        assert max(found.crashes for found in agent.reported().versions) == crashes
    poison(agent, 666.0)
    wait_until(lambda: agent.factor() == (2.0, "1"), "the version before serves")
    states = {found.version: found.state for found in agent.reported().versions}
    assert states == {"1": "serving", "2": "quarantined"}
    assert any("crashed the serving process 3 times" in problem for problem in agent.reported().problems)
    assert agent.stop() == 0
    agent.start()
    assert agent.factor() == (2.0, "1")
    fleet.release("3", 4.0)
    agent.sync()
    assert agent.factor() == (4.0, "3")


@pytest.mark.slow
def test_a_version_that_hangs_is_killed_and_charged(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    fleet.publish_faulty("2", "3.0", run_limit_s=0.5)
    fleet.deploy(m="2", bake_s=0)
    agent.sync()
    for _ in range(3):
        poison(agent, 777.0)
    wait_until(lambda: agent.factor() == (2.0, "1"), "the version before serves")
    assert len(agent.events("hung")) == 3
    assert [event.version for event in agent.events("quarantined")] == ["2"]


# --- going back, restarting ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_rollback_holds_until_there_is_something_newer(agent: AgentProcess, fleet: Fleet) -> None:
    with pytest.raises(EdgeAgentError, match="no previous version"):
        agent.ask("rollback")
    fleet.release("1", 2.0)
    agent.sync()
    fleet.release("2", 3.0)
    agent.sync()
    assert agent.ask("rollback")["serial"] == 1
    assert agent.factor() == (2.0, "1")
    assert agent.sync(force=True)["status"] == "unchanged"
    assert agent.factor() == (2.0, "1")
    [event] = agent.events("rolled_back")
    assert event.actor == pwd.getpwuid(os.getuid()).pw_name
    agent.stop()
    agent.start()
    agent.sync(force=True)
    assert agent.factor() == (2.0, "1")
    fleet.release("3", 4.0)
    agent.sync()
    assert agent.factor() == (4.0, "3")
    assert agent.ask("rollback")["serial"] == 1
    assert agent.ask("rollback")["serial"] == 3
    assert agent.factor() == (4.0, "3")


def test_it_serves_after_a_restart_without_its_store(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    agent.kill()
    shutil.rmtree(fleet.store)
    agent.start()
    wait_until(lambda: agent.reported().plan_id, "the plan is applied")
    assert agent.factor() == (2.0, "1")


def test_serving_ends_when_its_supervisor_is_killed(agent: AgentProcess) -> None:
    serving = agent.ask("status")["process"]["serving_pid"]
    agent.kill()
    wait_until(lambda: not Path(f"/proc/{serving}").exists(), "serving has ended")
    agent.start()


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_damaged_model_file_is_fetched_again(agent: AgentProcess, fleet: Fleet, damage: str) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    agent.stop()
    digest = fleet.blob("m", "1").name
    [path] = (agent.state / "blobs").glob(f"??/{digest}")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"\0" * path.stat().st_size)
    agent.start()
    wait_until(lambda: path.exists() and agent.reported().versions[0].state == "serving", "it serves again")
    assert agent.factor() == (2.0, "1")


def test_a_lost_state_is_rebuilt_from_the_store(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    agent.stop()
    (agent.state / "state.json").write_bytes(b"\0\0\0")
    (agent.state / "state.json.prev").unlink(missing_ok=True)
    agent.start()
    wait_until(lambda: agent.reported().serial == 1, "the plan is back")
    assert agent.factor() == (2.0, "1")
    assert agent.events("state_damaged")


def test_a_second_agent_names_who_holds_the_state_folder(agent: AgentProcess) -> None:
    assert agent.process is not None
    result = subprocess.run(
        [Path(sys.executable).parent / "edge-agent", "run", "--config", agent.config],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 2
    assert f"Another agent (process {agent.process.pid}) holds" in result.stderr
    assert "Traceback" not in result.stderr
    assert agent.is_ready()


def test_it_stops_cleanly_and_leaves_no_sockets(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    assert agent.stop() == 0
    assert not agent.infer_socket.exists()
    assert not (agent.runtime / "admin.sock").exists()
    assert "Traceback" not in agent.log.read_text()
    agent.start()


def test_a_full_disk_changes_nothing_that_runs_and_is_told(tmp_path: Path, fleet: Fleet) -> None:
    """The state folder is a tmpfs that is too small for the second version."""
    fleet.release("1", 2.0)
    agent = device(tmp_path, fleet)
    with small_disk(agent), agent:
        wait_until(lambda: agent.reported().serial == 1, "the first version serves")
        fleet.release("2", 3.0, padding_bytes=12 * 2**20)
        outcome = agent.sync()
        assert outcome["status"] == "failed"
        assert "too full" in outcome["message"] or "free some space" in outcome["message"]
        assert agent.factor() == (2.0, "1")
        fleet.release("3", 4.0)
        assert agent.sync()["status"] == "activated"
        assert agent.factor() == (4.0, "3")


def test_another_key_folder_is_no_way_in(fleet: Fleet, tmp_path: Path) -> None:
    stranger = KeyFolder(tmp_path / "other-keys", None)
    Repository(tmp_path / "other-store").create(stranger, datetime.now(UTC))
    with pytest.raises(EdgeAgentError), fleet.repository.editing(stranger, datetime.now(UTC)) as edit:
        edit.renew("timestamp")


@pytest.mark.slow
def test_settings_broken_by_an_edit_do_not_stop_it_and_are_taken_up_when_repaired(
    agent: AgentProcess, fleet: Fleet
) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    agent.stop()
    agent.settings["store"]["poll_intervall_s"] = 5
    agent.start()
    wait_until(lambda: agent.reported().versions, "it serves all the same")
    assert agent.factor() == (2.0, "1")
    assert any("poll_intervall_s" in problem for problem in agent.reported().problems)
    del agent.settings["store"]["poll_intervall_s"]
    agent.settings["device"]["id"] = "renamed"
    agent.write_settings()
    wait_until(lambda: agent.is_ready() and device_id(agent) == "renamed", "the repair is taken up", 60)
    assert agent.reported().problems == ()
    assert agent.factor() == (2.0, "1")


def device_id(agent: AgentProcess) -> str | None:
    """Return the id that the agent reports, None while it starts again."""
    try:
        return agent.reported().device
    except EdgeAgentError:
        return None


def test_a_version_that_travels_compressed_is_served(agent: AgentProcess, fleet: Fleet) -> None:
    model = affine_onnx(fleet.folder / "sparse.onnx", 3.0, padding_bytes=400_000, sparsity=0.8)
    folder = package(fleet.folder / "packages/m/1", model, name="m", version="1", factor=3.0, packed=True)
    fleet.publish_package(folder)
    fleet.deploy(m="1")
    agent.sync()
    assert agent.factor() == (3.0, "1")
    assert fleet.blob("m", "1").stat().st_size < 0.3 * model.stat().st_size
