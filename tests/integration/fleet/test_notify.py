"""The retained hint, on a real broker."""

import json
import queue
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_fleet.cli import main
from support.tiny_fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.delenv("EDGE_FLEET_MQTT", raising=False)
    fleet = Fleet(tmp_path)
    fleet.repository.create(fleet.keys, fleet.now)
    fleet.publish("digits", "1")
    fleet.publish("digits", "2")
    return fleet


def retained(address: tuple[str, int], topic: str) -> object:
    received: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
    client.on_message = lambda _client, _data, message: received.put(message)
    client.connect(*address)
    client.loop_start()
    try:
        message = received.get(timeout=5)
        assert message.retain
        return json.loads(message.payload)
    finally:
        client.disconnect()
        client.loop_stop()


def deploy(fleet: Fleet, *arguments: str) -> int:
    return main(["deploy", str(fleet.store), "--keys", str(fleet.keys.path), *arguments])


def test_deploy_tells_the_devices_once_a_broker_is_named(
    fleet: Fleet,
    mosquitto: tuple[str, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EDGE_FLEET_MQTT", f"mqtt://{mosquitto[0]}:{mosquitto[1]}")
    assert deploy(fleet, "--model", "digits=1:50,2:50", "--unit", "key", "--cache", "off") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 (50 %), 2 (50 %); experiment digits, epoch 1, by key; cache off" in told
    topic = "edge/v1/default/_group/default/desired"
    assert f"Told the devices on {topic}." in told
    assert retained(mosquitto, topic) == {"serial": 1, "spread_s": 0.0, "schema": 1}
    assert deploy(fleet, "--model", "digits=2", "--spread-s", "5", "--fleet", "south", "--json") == 0
    assert json.loads(capsys.readouterr().out)["notified"] == "edge/v1/south/_group/default/desired"
    assert retained(mosquitto, "edge/v1/south/_group/default/desired") == {
        "serial": 2,
        "spread_s": 5.0,
        "schema": 1,
    }


def test_notify_tells_what_is_deployed(
    fleet: Fleet, mosquitto: tuple[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    broker = f"--mqtt=mqtt://{mosquitto[0]}:{mosquitto[1]}"
    assert main(["notify", str(fleet.store), broker]) == 2
    assert "Group 'default' has no deployment" in capsys.readouterr().err
    assert deploy(fleet, "--model", "digits=1") == 0
    assert main(["notify", str(fleet.store), broker, "--spread-s=60"]) == 0
    assert "to look within 60 s for serial 1." in capsys.readouterr().out


def test_a_deployment_stands_when_the_broker_is_away(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy(fleet, "--model", "digits=1", "--mqtt=mqtt://127.0.0.1:1") == 1
    said = capsys.readouterr().err
    assert "Serial 1 of group 'default' is deployed, but the devices were not told" in said
    assert "Connection refused" in said


def test_nothing_is_deployed_when_the_broker_is_misspelt(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deploy(fleet, "--model", "digits=1", "--mqtt=broker") == 2
    assert deploy(fleet, "--model", "digits=1", "--notify") == 2
    assert "No broker is named" in capsys.readouterr().err
    assert main(["notify", str(fleet.store), "--mqtt=mqtt://127.0.0.1:1"]) == 2
    assert "has no deployment" in capsys.readouterr().err
