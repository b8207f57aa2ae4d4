"""The fleet tools' side of MQTT 5; the one module of theirs that touches paho.

paho runs its network in a thread of its own and calls back there; what it brings is handed over in bounded
queues, and an acknowledgement is sent only when the caller says so.
"""

import queue
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.documents.errors import EdgeAgentError, OperatorError, SettingsError, UnavailableError
from edge_fleet.broker_options import BrokerSettings

MAX_PACKET_BYTES: Final = 256 * 1024
"""Larger messages are not sent to us; devices send 100 KB at most."""
_IN_FLIGHT: Final = 200
"""Messages that the broker sends ahead of their acknowledgement: with MAX_PACKET_BYTES the bound on memory."""
_QUEUED: Final = 1_000
_RETRY_MAX_S: Final = 30
_TAKEN_OVER: Final = 0x8E


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it came; `connection` and `mid` belong to its acknowledgement."""

    topic: str
    payload: bytes
    retained: bool
    qos: int
    mid: int
    connection: int


def publish_retained(settings: BrokerSettings, topic: str, payload: bytes, timeout_s: float = 10.0) -> None:
    """Publish one retained message with QoS 1; it is with the broker when this returns.

    Raises UnavailableError if the broker cannot be reached, OperatorError if it refuses.
    """
    outcome: queue.SimpleQueue[EdgeAgentError | None] = queue.SimpleQueue()

    def connected(client: mqtt.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        if code.is_failure:
            outcome.put(_refused(settings, code))
        else:
            client.publish(topic, payload, qos=1, retain=True)

    def published(_client: Any, _data: Any, _mid: int, code: ReasonCode, _properties: Any) -> None:
        outcome.put(_not_taken(settings, topic, code) if code.is_failure else None)

    client = _client(settings, client_id="")
    client.on_connect = connected
    client.on_publish = published
    client.on_connect_fail = lambda _client, _data: outcome.put(_unreachable(settings, sys.exc_info()[1]))
    with _running(settings, client, keepalive_s=60, properties=None):
        try:
            error = outcome.get(timeout=timeout_s)
        except queue.Empty:
            error = UnavailableError(
                f"The broker at {settings.address} did not answer within {timeout_s:g} s: check its address."
            )
    if error is not None:
        raise error


class Subscription:
    """A persistent session with one subscription: what arrives while nobody listens is kept by the broker.

    Connects again by itself. Messages are acknowledged by `acknowledge` alone; what was not is sent again.
    """

    def __init__(
        self, settings: BrokerSettings, topic_filter: str, client_id: str, session_expiry_s: int
    ) -> None:
        self._settings = settings
        self._filter = topic_filter
        self._messages: queue.Queue[Message] = queue.Queue(_QUEUED)
        self._stopping = threading.Event()
        self._connection = 0
        self._fatal: EdgeAgentError | None = None
        self.connected = False
        self.problem: EdgeAgentError | None = UnavailableError(
            f"The broker at {settings.address} has not answered yet."
        )
        """Why there is no connection; None while there is one."""
        self._properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        self._properties.SessionExpiryInterval = session_expiry_s
        self._properties.ReceiveMaximum = _IN_FLIGHT
        self._properties.MaximumPacketSize = MAX_PACKET_BYTES
        self._client = _client(settings, client_id, manual_ack=True)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self._running = _running(self._settings, self._client, keepalive_s=30, properties=self._properties)
        self._running.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._running.__exit__(None, None, None)

    def receive(self, limit: int, wait_s: float) -> list[Message]:
        """Return up to `limit` messages, after at most `wait_s` seconds; none if nothing came.

        Raises OperatorError once it makes no sense to wait on: refused, or taken over by another collector.
        """
        messages: list[Message] = []
        try:
            messages.append(self._messages.get(timeout=wait_s))
            while len(messages) < limit:
                messages.append(self._messages.get_nowait())
        except queue.Empty:
            pass
        if not messages and self._fatal is not None:
            raise self._fatal
        return messages

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Let the broker forget these messages.

        One that came by an earlier connection is left out: the broker sends it again, perhaps under another
        number, and ours may belong to another message by now.
        """
        for message in messages:
            if message.connection == self._connection:
                self._client.ack(message.mid, message.qos)

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any
    ) -> None:
        if code.is_failure:
            self.problem = _refused(self._settings, code)
            if self._connection == 0 and isinstance(self.problem, OperatorError):
                self._fatal = self.problem
            return
        self._connection += 1
        client.subscribe(self._filter, qos=1)

    def _on_subscribe(
        self, _client: Any, _data: Any, _mid: int, codes: list[ReasonCode], _properties: Any
    ) -> None:
        if codes[0].is_failure:
            self._fatal = OperatorError(
                f"The broker at {self._settings.address} does not let this user read {self._filter}: allow it "
                "in the broker's access rules."
            )
            return
        self.connected, self.problem = True, None

    def _on_connect_fail(self, _client: Any, _data: Any) -> None:
        self.problem = _unreachable(self._settings, sys.exc_info()[1])
        if self._connection == 0 and isinstance(self.problem, OperatorError):
            self._fatal = self.problem

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        self.connected = False
        if code.value == _TAKEN_OVER:
            self._fatal = OperatorError(
                "Another collector uses a copy of this database: stop one of them, or give the other a "
                "database of its own."
            )
        elif self.problem is None:
            self.problem = UnavailableError(f"The broker at {self._settings.address} is away ({code}).")

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # against the protocol, so that it can't be one of a device
            topic = ""
        received = Message(
            topic, bytes(message.payload), message.retain, message.qos, message.mid, self._connection
        )
        while not self._stopping.is_set():
            try:
                self._messages.put(received, timeout=0.2)
            except queue.Full:  # the network waits until there is room, and so does the broker
                continue
            return


def _client(settings: BrokerSettings, client_id: str, manual_ack: bool = False) -> mqtt.Client:
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5, manual_ack=manual_ack
    )
    client.reconnect_delay_set(1, _RETRY_MAX_S)
    client.connect_timeout = 10.0
    client.on_socket_open = _send_at_once
    if settings.username is not None or settings.password is not None:
        client.username_pw_set(settings.username or "", settings.password)
    if settings.tls:
        client.tls_set_context(_tls(settings))
    return client


def _send_at_once(_client: Any, _data: Any, sock: Any) -> None:
    """Without this, small packets such as acknowledgements wait up to 40 ms for the broker's."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _tls(settings: BrokerSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_bundle)
        if settings.client_certificate is not None:
            context.load_cert_chain(settings.client_certificate, settings.client_key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError(f"The certificates for the broker cannot be used: {error}.") from error
    return context


@contextmanager
def _running(
    settings: BrokerSettings, client: mqtt.Client, keepalive_s: int, properties: Properties | None
) -> Iterator[None]:
    """Keep the client connected in its own thread; `properties` asks for a session that outlives it."""
    client.connect_async(
        settings.host,
        settings.port,
        keepalive_s,
        clean_start=properties is None,
        properties=properties,
    )
    client.loop_start()
    try:
        yield
    finally:
        client.disconnect()
        client.loop_stop()


def wait_until_connected(subscription: Subscription, timeout_s: float, stopped: Callable[[], bool]) -> None:
    """Wait for the first connection; raises what time does not mend, or what is so after `timeout_s`."""
    deadline = monotonic() + timeout_s
    while not subscription.connected and not stopped():
        problem = subscription.problem
        if problem is not None and (isinstance(problem, OperatorError) or monotonic() > deadline):
            raise problem
        threading.Event().wait(0.05)


def _refused(settings: BrokerSettings, code: ReasonCode) -> EdgeAgentError:
    if code.value in (0x86, 0x87, 0x8C):  # bad user name or password, not authorized, bad method
        return OperatorError(
            f"The broker at {settings.address} refuses this user ({code}): check the user name in the address "
            "and the password file or certificate."
        )
    return UnavailableError(f"The broker at {settings.address} refuses the connection ({code}).")


def _not_taken(settings: BrokerSettings, topic: str, code: ReasonCode) -> OperatorError:
    return OperatorError(
        f"The broker at {settings.address} did not take the message on {topic} ({code}): allow this user to "
        "write there."
    )


def _unreachable(settings: BrokerSettings, error: BaseException | None) -> EdgeAgentError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return OperatorError(
            f"The certificate of the broker at {settings.address} is not trusted ({error.verify_message}): "
            "name its authority with --mqtt-ca."
        )
    reason = getattr(error, "strerror", None) or error
    return UnavailableError(f"The broker at {settings.address} cannot be reached: {reason}.")
