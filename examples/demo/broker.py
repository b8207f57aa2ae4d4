"""The fleet's MQTT broker: one that is named, else rumqttd out of the package iotcore, else mosquitto."""

import importlib.util
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from examples.demo.machine import DEMO, DemoError, Machine, free_port, is_listening, shown

RUMQTTD = """\
id = 0

[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 1048576
max_segment_count = 10

# Without a section of version 5 it speaks MQTT 3.1.1 only.
[v5.1]
name = "demo"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = 262144
max_inflight_count = 100
dynamic_filters = true
"""

MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
"""


class Broker:
    """A broker that the demo starts, kills and starts again; or, with a URL, one that it only uses."""

    def __init__(self, machine: Machine, url: str | None) -> None:
        self._machine = machine
        self._port = free_port() if url is None else urlsplit(url).port or 1883
        self.url = url or f"mqtt://127.0.0.1:{self._port}"
        self.is_ours = url is None

    def start(self) -> None:
        """Start it, if it is ours, and wait until it listens."""
        if not self.is_ours:
            return
        self._machine.start("broker", *self._command())
        self._machine.wait_until("the broker", lambda: is_listening(self._port))

    def kill(self) -> None:
        """End it as a power cut would; it remembers nothing afterwards."""
        self._machine.kill("broker")

    def _command(self) -> list[str]:
        if importlib.util.find_spec("iotcore") is not None:
            config = _write(DEMO / "rumqttd.toml", RUMQTTD.format(port=self._port))
            return ["python", "-m", "iotcore", "--log-level", "CRITICAL", "--config", config]
        path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin"
        if (mosquitto := shutil.which("mosquitto", path=path)) is None:
            raise DemoError(
                "There is no broker: the package iotcore has none for this machine and mosquitto is not "
                "installed. Install mosquitto, or name a broker: make demo BROKER=mqtt://HOST."
            )
        return [mosquitto, "-c", _write(DEMO / "mosquitto.conf", MOSQUITTO.format(port=self._port))]


def _write(path: Path, text: str) -> str:
    path.write_text(text)
    return shown(path)
