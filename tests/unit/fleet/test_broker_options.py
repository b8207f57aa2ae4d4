import argparse
from pathlib import Path

import pytest

from edge_agent.documents.errors import EdgeAgentError, RequestError
from edge_agent.documents.topics import Topics
from edge_fleet.broker_options import BrokerSettings, add_broker_options, broker_settings, required_broker


def settings(*arguments: str, **environment: str) -> BrokerSettings | None:
    parser = argparse.ArgumentParser()
    add_broker_options(parser)
    return broker_settings(parser.parse_args(arguments), environment)


def test_without_an_address_there_is_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_FLEET_MQTT", raising=False)
    assert settings() is None
    parser = argparse.ArgumentParser()
    add_broker_options(parser)
    with pytest.raises(RequestError, match=r"No broker is named.*EDGE_FLEET_MQTT"):
        required_broker(parser.parse_args([]))


def test_options_go_before_the_environment(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    found = settings(
        "--mqtt=mqtts://o%40x@broker:443",
        "--fleet=south",
        EDGE_FLEET_MQTT="mqtt://other",
        EDGE_FLEET_MQTT_PASSWORD_FILE=str(password),
        EDGE_FLEET_PREFIX="a/b",
    )
    assert found == BrokerSettings("broker", 443, True, Topics("a/b", "south"), "o@x", "secret")


@pytest.mark.parametrize(
    ("url", "port", "tls"),
    [("mqtt://h", 1883, False), ("mqtts://h/", 8883, True), ("mqtt://[::1]:7", 7, False)],
)
def test_ports(url: str, port: int, tls: bool) -> None:
    found = settings(EDGE_FLEET_MQTT=url)
    assert found is not None
    assert (found.port, found.tls, found.topics) == (port, tls, Topics("edge/v1", "default"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mqtt=broker"], "not valid"),
        (["--mqtt=http://broker"], "not valid"),
        (["--mqtt=mqtt://"], "not valid"),
        (["--mqtt=mqtt://h:99999"], "not valid"),
        (["--mqtt=mqtt://[h"], "not valid"),
        (["--mqtt=mqtt://u:secret@h"], "put it into a file"),
        (["--mqtt=mqtt://h", "--fleet=a/b"], "cannot name a fleet"),
        (["--mqtt=mqtt://h", "--prefix=a/#"], "cannot be a prefix"),
        (["--mqtt=mqtt://h", "--mqtt-ca=/none"], "/none is not there"),
        (["--mqtt=mqtt://h", "--mqtt-password-file=/none"], "/none cannot be read"),
    ],
)
def test_what_cannot_be_used(arguments: list[str], message: str) -> None:
    with pytest.raises(EdgeAgentError, match=message) as raised:
        settings(*arguments)
    assert "secret@" not in str(raised.value)
