"""What the link makes of messages that are none; without a broker."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from edge_agent.control.broker_link import MqttClient
from edge_agent.control.complaints import Complaints
from edge_agent.control.mqtt import Message
from edge_agent.control.remote import Remote
from edge_agent.documents.topics import Topics

TOPICS = Topics("edge/v1", "fleet")
ANSWER = TOPICS.up("d", "res", "1")
NO_JSON = [b'{"\xff": 1}', b'{"a": "\xff"}', b'{"a": ' + b"[" * 30_000, b"[]", b"\xff"]


class Client:
    """Stands for the connection: notes what is published."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def subscribe(self, topic_filter: str) -> None:
        """Nothing comes by itself."""

    async def publish(self, message: Message) -> None:
        self.sent.append(message)


class Told:
    """Stands for the complaints."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def tell(self, message: str) -> None:
        self.messages.append(message)


def remote(client: Client, told: Told, newest_serial: Callable[[], int], look: Callable[[], None]) -> Remote:
    """Return a device's, of the group `g`, that has one command."""

    async def command(arguments: Any) -> Any:
        return arguments

    made = Remote(
        cast("MqttClient", client),
        cast("Complaints", told),
        TOPICS,
        "d",
        {"sync": command},
        newest_serial,
        look,
    )
    made.follow("g")
    return made


def receive(topic: str, payload: bytes, response_topic: str | None = None) -> tuple[list[str], list[Message]]:
    """Return what was complained of and what was answered."""

    async def run() -> tuple[list[str], list[Message]]:
        client, told = Client(), Told()
        asked = remote(client, told, lambda: 0, lambda: None)
        asked.receive(Message(topic, payload, response_topic=response_topic))
        await asyncio.sleep(0.01)
        asked.stop()
        return told.messages, client.sent

    return asyncio.run(run())


@pytest.mark.parametrize("payload", NO_JSON)
def test_a_hint_that_is_none_is_one_complaint(payload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    told, _ = receive(TOPICS.desired("g"), payload)
    assert len(told) == 1
    assert "it is no hint" in told[0]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("payload", NO_JSON)
def test_a_command_that_cannot_be_read_is_refused_with_the_reason(
    payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    told, sent = receive(TOPICS.down("d", "cmd", "sync"), payload)
    assert ([("payload is malformed" in message) for message in told], sent) == ([True], [])
    told, sent = receive(TOPICS.down("d", "cmd", "sync"), payload, ANSWER)
    assert told == []
    assert [b"payload is malformed" in message.payload for message in sent] == [True]
    assert "Traceback" not in caplog.text


def test_a_flood_of_hints_makes_a_device_look_once_until_one_was_true() -> None:
    looks: list[int] = []
    serial = 1

    async def run() -> None:
        nonlocal serial
        asked = remote(Client(), Told(), lambda: serial, lambda: looks.append(serial))
        for number in range(1000):
            asked.receive(Message(TOPICS.desired("g"), b'{"serial": %d}' % (1000 + number)))
            await asyncio.sleep(0)
        assert looks == [1]
        serial = 2
        asked.stop()
        asked.receive(Message(TOPICS.desired("g"), b'{"serial": 3}'))
        await asyncio.sleep(0.01)
        assert looks == [1, 2]
        asked.stop()

    asyncio.run(run())
