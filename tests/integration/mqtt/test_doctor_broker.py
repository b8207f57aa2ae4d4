from pathlib import Path

import pytest

from edge_agent.cli import broker_check
from edge_agent.documents.settings import DeviceSettings, LocalMqttSettings, MqttSettings, Settings
from support.broker import Broker


def test_the_doctor_connects_to_each_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_check, "TIMEOUT_S", 1.0)
    with Broker(tmp_path / "broker") as broker:
        settings = Settings(
            device=DeviceSettings(id="d"),
            mqtt=MqttSettings(url=broker.url),
            local_mqtt=LocalMqttSettings(url="mqtt://127.0.0.1:9"),
        )
        good, bad = broker_check.brokers(settings)
    assert (good.outcome, good.message) == ("ok", f"{broker.url} takes a connection")
    assert bad.outcome == "fail"
    assert "Connection refused" in bad.message
    assert list(broker_check.brokers(Settings())) == []
