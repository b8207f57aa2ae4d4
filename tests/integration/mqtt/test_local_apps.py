"""Inference and outcomes over MQTT, with a real agent and a real broker."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
import pytest

from support.agent import AgentProcess, wait_until
from support.broker import Broker, Listener
from support.fleet import Fleet

REQUEST = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}]}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    made.release("1", 2.0)
    return made


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as running:
        yield running


def serving(tmp_path: Path, broker: Broker, fleet: Fleet, **local: Any) -> AgentProcess:
    agent = AgentProcess(
        tmp_path / "device",
        {
            "device": {"id": "device"},
            "store": {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600},
            "local_mqtt": {"url": broker.url, **local},
        },
    )
    agent.start()
    wait_until(lambda: agent.reported().plan_id and agent.reported().serial == 1, "the version serves")
    wait_until(lambda: agent.ask("status")["local_link"]["state"] == "up", "the link is up")
    return agent


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_an_app_is_answered_on_the_result_topic(
    tmp_path: Path, broker: Broker, fleet: Fleet, protocol: str
) -> None:
    agent = serving(tmp_path, broker, fleet, protocol=protocol)
    version = mqtt.MQTTv5 if protocol == "5" else mqtt.MQTTv311
    try:
        with Listener(broker.port, "edge-agent/result/+", protocol=version) as app:
            app.tell("edge-agent/infer/m", {**REQUEST, "id": "seven"})
            answer = wait_until(lambda: app.json("edge-agent/result/m"), "the answer")[0]
            assert (answer["id"], answer["model_version"]) == ("seven", "1")
            assert answer["outputs"][0]["data"] == [2.0, 4.0, 6.0]
            values = [{"prediction_id": answer["parameters"]["prediction_id"], "values": {"correct": 1}}]
            app.tell("edge-agent/outcomes/m", {"outcomes": values, "id": "eight"})
            taken = wait_until(lambda: app.json("edge-agent/result/m")[1:], "the outcome is taken")[0]
            assert (taken["id"], taken["accepted"]) == ("eight", 1)
            app.tell("edge-agent/infer/nothing", {**REQUEST, "id": "nine"})
            wrong = wait_until(lambda: app.json("edge-agent/result/nothing"), "the error")[0]
            assert wrong["id"] == "nine"
            assert "nothing" in wrong["error"]
            app.tell("edge-agent/infer/m", b"\xff no JSON")
            wrong = wait_until(lambda: app.json("edge-agent/result/m")[2:], "the error")[0]
            assert "no JSON object" in wrong["error"]
    finally:
        agent.stop()


def test_the_response_topic_and_bindings_say_where_answers_go(
    tmp_path: Path, broker: Broker, fleet: Fleet
) -> None:
    more = tmp_path / "device/conf.d/bindings.toml"
    more.parent.mkdir(parents=True)
    more.write_text('[[local_mqtt.bindings]]\nfilter = "plant/+/camera"\nmodel = "m"\nresult = "plant/seen"\n')
    agent = serving(tmp_path, broker, fleet)
    try:
        with Listener(broker.port, "answers/#", "plant/seen", "edge/#") as app:
            app.ask("edge-agent/infer/m", {**REQUEST, "id": "1"}, "answers/mine", b"\x00\x01")
            found = wait_until(lambda: app.on("answers/mine"), "the answer")[0]
            assert found.properties.CorrelationData == b"\x00\x01"
            app.tell("plant/4/camera", REQUEST)
            assert wait_until(lambda: app.json("plant/seen"), "the answer")[0]["model_name"] == "m"
            # Neither a loop nor a command to a device in the name of the agent.
            app.ask("edge-agent/infer/m", REQUEST, "edge-agent/infer/m")
            app.ask("edge-agent/infer/m", REQUEST, "edge/v1/default/device/down/cmd/sync")
            app.tell("edge-agent/infer/m", REQUEST, retain=True)
            app.tell("edge-agent/infer/m", b"", retain=True)
            wait_until(lambda: len(agent.events("warning")) == 3, "three refusals")
            assert not app.on("edge/#")
    finally:
        agent.stop()


def test_many_requests_at_once_are_all_answered(tmp_path: Path, broker: Broker, fleet: Fleet) -> None:
    agent = serving(tmp_path, broker, fleet)
    try:
        with Listener(broker.port, "edge-agent/result/+") as app:
            for number in range(200):
                app.tell("edge-agent/infer/m", {**REQUEST, "id": str(number)})
            wait_until(lambda: len(app.json("edge-agent/result/m")) == 200, "all answers")
            assert {answer["id"] for answer in app.json("edge-agent/result/m")} == {str(n) for n in range(200)}
    finally:
        agent.stop()


Served = tuple[AgentProcess, Broker]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, fleet: Fleet) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with Broker(folder / "broker") as running:
        agent = serving(folder, running, fleet)
        yield agent, running
        agent.stop()


def test_an_answer_does_not_wait_for_the_network_thread(served: Served) -> None:
    _, broker = served
    with Listener(broker.port, "edge-agent/result/+") as app:
        took_s = []
        for number in range(1, 6):
            began_s = time.monotonic()
            app.client.publish("edge-agent/infer/m", msgspec.json.encode(REQUEST))
            wait_until(lambda count=number: len(app.messages) >= count, "the answer")
            took_s.append(time.monotonic() - began_s)
        assert min(took_s) < 0.5


@pytest.mark.parametrize("payload", [b'{"\xff": 1}', b'{"id": "seven", "a": ' + b"[" * 50_000, b"\xff", b""])
def test_what_is_no_json_is_answered_with_the_reason(served: Served, payload: bytes) -> None:
    agent, broker = served
    with Listener(broker.port, "edge-agent/result/+") as app:
        app.tell("edge-agent/infer/m", payload)
        answer = wait_until(lambda: app.json("edge-agent/result/m"), "the answer")[0]
        assert "is no JSON object" in answer["error"]
        assert "Traceback" not in agent.log.read_text()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_large_requests_do_not_make_the_supervisor_large(
    tmp_path: Path, broker: Broker, fleet: Fleet, protocol: str
) -> None:
    agent = serving(tmp_path, broker, fleet, protocol=protocol)
    try:
        with Listener(broker.port, "edge-agent/result/+") as app:
            assert agent.process is not None
            before = peak_bytes(agent.process.pid)
            for _ in range(5):
                app.tell("edge-agent/infer/m", b'{"a": "' + b"x" * 20_000_000 + b'"}')
            for _ in range(40):
                app.tell("edge-agent/infer/m", b'{"a": "' + b"x" * 2_000_000 + b'"}')
            app.tell("edge-agent/infer/m", {**REQUEST, "id": "last"})
            wait_until(
                lambda: [a for a in app.json("edge-agent/result/m") if a.get("id") == "last"], "the last"
            )
            assert len(app.on("edge-agent/result/m")) <= 41
            # By 3.1.1 a broker cannot be told to keep them to itself: one at a time is there for a moment.
            assert peak_bytes(agent.process.pid) - before < (150e6 if protocol == "5" else 200e6)
            dropped = [e for e in agent.events("warning") if "4194304 are taken at most" in e.message]
            assert len(dropped) == (0 if protocol == "5" else 1)
    finally:
        agent.stop()


def peak_bytes(pid: int) -> float:
    """Return the most memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
