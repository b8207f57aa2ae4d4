"""A real agent that fetches from a real web server: how far it is, what it waits for, all or nothing."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_agent.documents.messages import Reported
from support.agent import AgentProcess, wait_until
from support.bad_store import Handler, Server
from support.broker import Broker, Listener
from support.fleet import Fleet

UP = "edge/v1/default/device/up"
SIZE = 1_500_000


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def store(fleet: Fleet) -> Iterator[Server]:
    with Server(fleet.store, Path("none")) as server:
        yield server


def device(folder: Path, fleet: Fleet, server: Server, **sections: dict[str, object]) -> AgentProcess:
    own = {"url": server.url, "root": str(fleet.root), "poll_interval_s": 3600, "timeout_s": 5.0}
    settings = {"device": {"id": "device"}, **sections, "store": {**own, **sections.get("store", {})}}
    return AgentProcess(folder / "device", settings)


def command(agent: AgentProcess, *words: str) -> str:
    words = (*words, "--socket", str(agent.runtime / "admin.sock"))
    program = Path(sys.executable).parent / "edge-agent"
    return subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=True).stdout


def cut_short(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, content[:500_000], length=len(content))


@pytest.mark.slow
def test_all_files_of_a_deployment_arrive_before_anything_changes(
    tmp_path: Path, fleet: Fleet, store: Server
) -> None:
    fleet.release("1", 2.0, name="m")
    fleet.release("1", 3.0, name="n")
    with device(tmp_path, fleet, store) as agent:
        wait_until(lambda: agent.reported().serial == 2, "the first versions are served")
        before = agent.state.joinpath("state.json").read_bytes()
        fleet.publish("2", 4.0, name="m", padding_bytes=SIZE)
        fleet.publish("2", 5.0, name="n", padding_bytes=SIZE)
        fleet.deploy(m="2", n="2")
        store.victim, store.mischief = fleet.blob("n", "2"), cut_short

        assert agent.sync()["status"] == "failed"

        assert (agent.state / "blobs" / fleet.blob("m", "2").parent.name / fleet.blob("m", "2").name).is_file()
        report = agent.reported()
        assert (report.serial, report.target_serial) == (2, None)
        assert {(version.model, version.version) for version in report.versions} == {("m", "1"), ("n", "1")}
        assert (agent.factor("m"), agent.factor("n")) == ((2.0, "1"), (3.0, "1"))
        assert agent.state.joinpath("state.json").read_bytes() == before
        assert any("Cannot get" in problem for problem in report.problems)

        store.mischief = None
        assert agent.sync()["status"] == "activated"
        assert (agent.factor("m"), agent.factor("n")) == ((4.0, "2"), (5.0, "2"))
        assert store.offsets == [0, 500_000]
        assert agent.reported().problems == ()


def test_a_version_that_differs_little_is_made_from_the_one_that_is_here(
    tmp_path: Path, fleet: Fleet, store: Server
) -> None:
    fleet.release("1", 2.0, padding_bytes=SIZE)
    with device(tmp_path, fleet, store) as agent:
        wait_until(lambda: agent.reported().serial == 1, "the first version is served")
        # So near to 2 that the padding, which is drawn by the factor in thousandths, is the same.
        fleet.release("2", 2.0004, padding_bytes=SIZE)
        store.victim = fleet.blob("m", "2")
        assert agent.sync()["status"] == "activated"
        assert agent.factor() == (2.0, "2")
        assert store.offsets == []


@pytest.mark.slow
def test_progress_is_told_by_the_status_and_over_mqtt(tmp_path: Path, fleet: Fleet, store: Server) -> None:
    fleet.release("1", 2.0, padding_bytes=SIZE)
    with Broker(tmp_path / "broker") as broker, Listener(broker.port, f"{UP}/#") as fleet_side:
        slow = device(
            tmp_path, fleet, store, store={"rate_limit_bytes_per_s": 75_000}, mqtt={"url": broker.url}
        )
        with slow as agent:
            step = wait_until(
                lambda: (step := agent.reported().sync.step) and step.done_bytes and step.eta_s and step,
                "a download is under way",
            )
            assert step.step == "Downloading"
            assert step.total_bytes > SIZE
            assert 0 < step.done_bytes < step.total_bytes
            assert 0 < step.rate_bytes_per_s < 2_000_000
            shown = command(agent, "status")
            assert "Store     looking at the store now: downloading, " in shown
            assert " of 1.4 MiB, " in shown
            assert "KiB/s, " in shown
            top = command(agent, "top", "--once", "--interval", "0.2")
            assert "store looking at the store now: downloading, " in top
            wait_until(lambda: agent.reported().serial == 1, "the version is served")
            wait_until(lambda: fleet_side.json(f"{UP}/reported")[-1]["serial"] == 1, "and told")
    told = [msgspec.convert(found, Reported).sync.step for found in fleet_side.json(f"{UP}/reported")]
    done = [step.done_bytes for step in told if step is not None and step.done_bytes]
    assert 4 <= len(done) <= 14
    assert done == sorted(done)


@pytest.mark.slow
def test_a_budget_that_is_used_up_is_told_and_an_operator_can_go_on(
    tmp_path: Path, fleet: Fleet, store: Server
) -> None:
    fleet.release("1", 2.0, padding_bytes=SIZE)
    with device(tmp_path, fleet, store, store={"budget_bytes": 700_000, "budget_period": "month"}) as agent:
        (wait,) = wait_until(lambda: agent.reported().waits, "the download waits")
        assert wait.reason == "budget"
        assert wait.message.startswith("The budget of 0.6676 MiB a month is used up until ")
        assert agent.reported().sync.state == "paused"
        assert agent.reported().problems == ()
        assert f"Waits     {wait.message}" in command(agent, "status")
        assert [event.message for event in agent.events("sync_paused")] == [wait.message]

        # Neither a restart nor another look begins anew.
        agent.stop()
        agent.start()
        assert agent.sync()["status"] == "waiting"
        assert command(agent, "sync") == f"{wait.message}\n"

        assert command(agent, "sync", "--now") == "Serial 1 is serving.\n"
        assert agent.factor() == (2.0, "1")
        assert agent.reported().waits == ()


@pytest.mark.slow
def test_a_store_that_is_busy_is_left_alone_for_as_long_as_it_asks(
    tmp_path: Path, fleet: Fleet, store: Server
) -> None:
    fleet.release("1", 2.0)
    store.victim = Path("timestamp.json")
    store.mischief = lambda handler, content, offset: handler.answer(503, fields={"Retry-After": "3"})
    with device(tmp_path, fleet, store) as agent:
        wait_until(lambda: store.offsets, "the store was asked")
        (event,) = wait_until(lambda: agent.events("sync_failed"), "the failure is told")
        store.mischief = None
        wait_until(lambda: agent.reported().serial == 1, "the version is served")
        (recovered,) = agent.events("sync_recovered")
        assert recovered.time_s - event.time_s >= 2.9
