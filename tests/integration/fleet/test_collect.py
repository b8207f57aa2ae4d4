"""The collector with a real broker and devices that publish what documents/messages.py describes."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.documents.messages import AbMessage, ArmSums, Event, EventMessage, MetricsMessage, Reported
from edge_fleet.cli import main
from edge_fleet.fleet_db import FleetDb, Received
from support.agent import wait_until
from support.collector import Collector

PREFIX = "edge/v1/default"


class Device:
    """Publishes as a device does."""

    def __init__(self, address: tuple[str, int], name: str) -> None:
        self.name = name
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.connect(*address)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, levels: str, document: object, retain: bool = False) -> None:
        payload = document if isinstance(document, bytes) else msgspec.json.encode(document)
        topic = f"{PREFIX}/{self.name}/up/{levels}"
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(5)

    def tell_all(self, online: bool = True) -> None:
        self.publish("status", b"online" if online else b"offline", retain=True)
        self.publish("reported", Reported(self.name, "0.1", "default", 7, "p"), retain=True)

    def event(self, number: int) -> None:
        self.publish("event/started", EventMessage(f"e-{number}", Event("started", 1.0, "It started.")))

    def ab(self, revision: int, **fields: Any) -> None:
        ones = tuple(ArmSums("1", bucket, "correct", 10, 6.0 + bucket % 2, 6.0) for bucket in range(8))
        twos = tuple(ArmSums("2", bucket, "correct", 10, 8.0 - bucket % 2, 8.0) for bucket in range(8))
        options = {"exposures": {"1": 98, "2": 102}, "sums": ones + twos, **fields}
        self.publish("ab/digits", AbMessage("db", revision, "digits", "digits", 1, **options))


@pytest.fixture
def device(mosquitto: tuple[str, int]) -> Iterator[Device]:
    device = Device(mosquitto, "line-3")
    yield device
    device.close()


@pytest.fixture
def tools(tmp_path: Path, mosquitto: tuple[str, int]) -> Collector:
    return Collector(tmp_path / "fleet.db", f"mqtt://{mosquitto[0]}:{mosquitto[1]}")


def test_what_devices_tell_is_stored_and_shown(
    tools: Collector, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    with tools.collecting() as process:
        device.tell_all()
        device.event(1)
        device.event(1)
        device.publish("metrics", MetricsMessage(2.0, 1.0))
        device.ab(2)
        device.ab(1, exposures={"1": 5})
        device.publish("res/9", b"a reply")
        device.publish("metrics", b"no JSON")
        device.publish("metrics", b"no JSON")
        wait_until(lambda: tools.counts()["invalid"] == 2, "all is stored")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1]) == {
        "connected": True,
        "messages": 10,
        "new": 7,
        "foreign": 0,
        "devices": 1,
        "online": 1,
        "events": 1,
        "sums": 1,
        "invalid": 2,
    }
    assert err.count("Device line-3 sent an invalid message") == 1

    assert main(["status", "--db", str(tools.db), "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["devices"]
    assert (shown["device"], shown["online"], shown["serial"]) == ("line-3", True, 7)

    assert main(["ab", "digits", "--db", str(tools.db), "--weights", "1=50,2=50", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    one, two = report["comparisons"][0]["arms"]
    assert (one["exposures"], one["n"], one["mean"]["value"]) == (98, 80, pytest.approx(0.65))
    assert (two["mean"]["value"], two["difference"]["value"]) == (pytest.approx(0.75), pytest.approx(0.1))
    assert report["ratio"]["p"] == pytest.approx(0.777, abs=0.001)

    assert main(["ab", "--db", str(tools.db), "--control", "2"]) == 0
    table = " ".join(capsys.readouterr().out.split())
    assert "Experiment digits, model digits, epoch 1, 1 device:" in table
    assert "less 2" in table
    assert "-0.100 ±" in table


@pytest.mark.slow
def test_nothing_is_lost_while_no_collector_runs(tools: Collector, device: Device) -> None:
    assert main(["collect", tools.broker, "--db", str(tools.db), "--once"]) == 0
    for number in range(50):
        device.event(number)
    assert tools.counts()["events"] == 0
    assert main(["collect", tools.broker, "--db", str(tools.db), "--once"]) == 0
    assert tools.counts()["events"] == 50


@pytest.mark.slow
def test_a_collector_that_is_killed_loses_and_doubles_nothing(tools: Collector, device: Device) -> None:
    sent = 0
    for _ in range(4):
        with tools.collecting() as process:
            for _ in range(60):
                sent += 1
                device.event(sent)
            process.kill()
    assert main(["collect", tools.broker, "--db", str(tools.db), "--once"]) == 0
    assert tools.counts()["events"] == sent


def test_a_second_collector_with_the_same_database(
    tools: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    with tools.collecting():
        assert main(["collect", tools.broker, "--db", str(tools.db), "--once"]) == 2
        assert "Another collector writes to" in capsys.readouterr().err


def test_a_broker_that_is_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["collect", "--mqtt=mqtt://127.0.0.1:1", "--db", str(tmp_path / "fleet.db"), "--seconds", "0.3"]
    assert main(arguments) == 0
    assert "broker away; 0 messages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ab", "other"], "no outcomes of experiment 'other'; it has digits (digits, epoch 1)"),
        (["ab", "--epoch", "9"], "no outcomes of any experiment, epoch 9"),
        (["ab", "--metric", "none"], "has no metric 'none'; it has correct"),
        (["ab", "--control", "3"], "has no arm '3'; it has 1, 2"),
        (["ab", "--weights", "1:50"], "are no weights"),
    ],
)
def test_questions_without_an_answer(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = ArmSums("1", 0, "correct", 1, 1.0, 1.0)
    document = AbMessage("db", 1, "digits", "digits", 1, {"1": 1, "2": 1}, (row,))
    with FleetDb.open(tmp_path / "fleet.db") as db:
        db.store([Received("d", 1.0, False, document)])
    assert main([*arguments, "--db", str(tmp_path / "fleet.db")]) == 2
    assert message in capsys.readouterr().err
