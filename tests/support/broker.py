"""A real mosquitto that can be killed and restarted, and a client that notes what it hears."""

import os
import queue
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, Self

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from support.agent import wait_until

CHECKOUT = Path(__file__).resolve().parent.parent.parent


class Broker:
    """mosquitto on a port of its own; what it was told survives `kill`, and `forget` empties it."""

    def __init__(self, folder: Path, *settings: str, anonymous: bool = True) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.port = free_port()
        self.settings = (
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {'true' if anonymous else 'false'}",
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            *(["user root"] if os.geteuid() == 0 else []),
            *settings,
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join(self.settings) + "\n")
        with (self.folder / "log").open("ab") as log:
            command = [program(), "-c", str(config)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._listens, "mosquitto listens")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def forget(self) -> None:
        """Lose everything, as on a new disk; while it is down."""
        (self.folder / "mosquitto.db").unlink(missing_ok=True)

    def _listens(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"mosquitto ended:\n{(self.folder / 'log').read_text()}")
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


class Listener:
    """A client that subscribes and notes all messages, the newest last; it connects again by itself."""

    def __init__(
        self,
        port: int,
        *filters: str,
        client_id: str = "",
        username: str | None = None,
        password: str = "",
        protocol: Any = mqtt.MQTTv5,
        session_expiry_s: int = 0,
    ) -> None:
        self.messages: list[mqtt.MQTTMessage] = []
        self._filters = filters
        self._ready: queue.Queue[None] = queue.Queue()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol)
        self.client.reconnect_delay_set(1, 1)
        if username is not None:
            self.client.username_pw_set(username, password)
        self.client.on_connect = self._connected
        self.client.on_subscribe = lambda *_: self._ready.put(None)
        self.client.on_message = lambda _c, _u, message: self.messages.append(message)
        if protocol == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = session_expiry_s
            clean = session_expiry_s == 0
            self.client.connect("127.0.0.1", port, clean_start=clean, properties=properties)
        else:
            self.client.connect("127.0.0.1", port)

    def __enter__(self) -> Self:
        self.client.loop_start()
        self._ready.get(timeout=10)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _connected(self, client: mqtt.Client, *_: object) -> None:
        if self._filters:
            client.subscribe([(name, 1) for name in self._filters])
        else:
            self._ready.put(None)

    def on(self, topic: str) -> list[mqtt.MQTTMessage]:
        """What came on a topic, or on those that a filter matches."""
        return [found for found in list(self.messages) if mqtt.topic_matches_sub(topic, found.topic)]

    def json(self, topic: str) -> list[Any]:
        return [msgspec.json.decode(found.payload) for found in self.on(topic)]

    def ask(
        self, topic: str, payload: Any, answer_topic: str, correlation: bytes = b"1", retain: bool = False
    ) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = answer_topic
        properties.CorrelationData = correlation
        content = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        self.client.publish(topic, content, 1, retain, properties).wait_for_publish(10)

    def tell(self, topic: str, payload: Any, retain: bool = False) -> None:
        content = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        self.client.publish(topic, content, 1, retain).wait_for_publish(10)


def program() -> str:
    """Return where mosquitto is."""
    path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin"
    unpacked = CHECKOUT / ".cache/mosquitto/mosquitto"
    found = shutil.which("mosquitto", path=path) or (str(unpacked) if unpacked.exists() else None)
    assert found is not None, "mosquitto is not installed; run scripts/fetch-mosquitto"
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
