"""One connection to an MQTT broker for asyncio, by MQTT 5 or 3.1.1; the one module of the device with paho.

Each connection has a paho client of its own, run by a daemon thread, whose callbacks reach the event loop in
order. paho's own queue, which is in memory and unbounded, stays empty: nothing is given to it but what the
broker takes now, so that a message outlives a connection only where its owner keeps it.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.documents.errors import (
    OperatorError,
    PayloadTooLargeError,
    RequestError,
    UnavailableError,
)
from edge_agent.documents.mqtt_url import BrokerAddress

WINDOW: Final = 20
"""Messages that may wait for the broker's acknowledgement at once, unless the broker allows fewer."""
ACKNOWLEDGE_LIMIT_S: Final = 60.0
"""A broker that takes longer to acknowledge is given up, and the connection made anew."""

_BACKLOG: Final = 16
"""Incoming messages that may wait for the event loop; then the network thread, and so the broker, waits."""
_TAKEN_OVER: Final = 0x8E
_OVERHEAD_BYTES: Final = 32
"""More than the fixed parts of a PUBLISH packet and of our properties take."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, in or out; the last three are MQTT 5's and left out for 3.1.1."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int | None = None
    response_topic: str | None = None
    correlation: bytes | None = None


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """How to connect; files are read again for each connection, so that they can be renewed."""

    address: BrokerAddress
    client_id: str
    protocol: Literal["5", "3.1.1"] = "5"
    username: str | None = None
    password_file: str | None = None
    ca_bundle: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    keepalive_s: int = 60
    session_expiry_s: int = 0
    """How long the broker keeps what it could not deliver; 0 begins afresh with each connection."""
    packet_limit_bytes: int = 2**18
    """A broker of MQTT 5 keeps larger packets to itself; by 3.1.1 they come, and are dropped."""
    will: Message | None = None
    will_delay_s: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended."""

    reason: str
    taken_over: bool = False


class Session:
    """One connection: its paho client, its thread, and what waits for acknowledgement on it."""

    def __init__(
        self, options: BrokerOptions, receive: Callable[[Message], None], complain: Callable[[str], None]
    ) -> None:
        self._options = options
        self._receive = receive
        self._complain = complain
        self._loop = asyncio.get_running_loop()
        self._backlog = threading.Semaphore(_BACKLOG)
        self._client: paho.Client | None = None
        self._subscribing: dict[int, tuple[tuple[str, ...], asyncio.Future[None]]] = {}
        self._waiting: dict[int, asyncio.Future[ReasonCode]] = {}
        self._window = asyncio.Semaphore(WINDOW)
        self._limit_bytes: int | None = None
        self._is_closed = False
        self._end: End | None = None
        self.connected: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[End] = self._loop.create_future()

    # --- on the event loop -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        threading.Thread(target=self._run, name=f"mqtt {self._options.client_id}", daemon=True).start()

    def close(self) -> None:
        """Disconnect; `ended` is done soon afterwards."""
        self._is_closed = True
        if self._client is not None:
            self._client.disconnect()

    def subscribe(self, filters: Mapping[str, bool]) -> asyncio.Future[None]:
        """Ask for messages of filters, True leaves out one's own; done when the broker has answered."""
        done: asyncio.Future[None] = self._loop.create_future()
        asked: list[Any]
        if self._options.protocol == "5":
            asked = [
                (name, SubscribeOptions(qos=1, noLocal=no_local, retainAsPublished=True))
                for name, no_local in filters.items()
            ]
        else:
            asked = [(name, 1) for name in filters]
        _, mid = self._client.subscribe(asked) if self._client is not None and asked else (None, None)
        if mid is None:
            done.set_result(None)
        else:
            self._subscribing[mid] = (tuple(filters), done)
        return done

    def unsubscribe(self, topic_filter: str) -> None:
        """Take no more messages of a filter."""
        if self._client is not None:
            self._client.unsubscribe(topic_filter)

    async def publish(self, message: Message) -> None:
        """See `MqttClient.publish` of `control.broker_link`."""
        size = len(message.payload) + len(message.topic.encode()) + _OVERHEAD_BYTES + _property_bytes(message)
        if self._limit_bytes is not None and size > self._limit_bytes:
            raise PayloadTooLargeError(
                f"A message of {size} bytes for {message.topic} was not sent: the broker takes "
                f"{self._limit_bytes} at most."
            )
        async with self._window:
            reason = await self._acknowledged(message)
        if reason.is_failure:
            raise OperatorError(
                f"The broker refuses what is sent to {message.topic} ({reason}); check its rules."
            )

    async def _acknowledged(self, message: Message) -> ReasonCode:
        if self.ended.done() or self._client is None:
            raise UnavailableError("The connection to the broker was lost.")
        try:
            info = self._client.publish(
                message.topic, message.payload, 1, message.retain, self._packed(message)
            )
        except ValueError as error:
            raise RequestError(f"Nothing can be published to '{message.topic}': {error}.") from error
        if info.rc != paho.MQTT_ERR_SUCCESS:
            self.close()
            raise UnavailableError(f"The connection to the broker was lost: {paho.error_string(info.rc)}")
        future = self._waiting[info.mid] = self._loop.create_future()
        try:
            async with asyncio.timeout(ACKNOWLEDGE_LIMIT_S):
                reason: ReasonCode = await future
                return reason
        except TimeoutError:
            self.close()
            raise UnavailableError("The broker did not acknowledge a message in time.") from None
        finally:
            self._waiting.pop(info.mid, None)

    def _packed(self, message: Message) -> Properties | None:
        if self._options.protocol != "5":
            return None
        properties = _properties(PacketTypes.PUBLISH)
        if message.expiry_s is not None:
            properties.MessageExpiryInterval = message.expiry_s
        if message.response_topic is not None:
            properties.ResponseTopic = message.response_topic
        if message.correlation is not None:
            properties.CorrelationData = message.correlation
        return properties

    def _now_connected(self, limit_bytes: int | None, window: int) -> None:
        self._limit_bytes = limit_bytes
        self._window = asyncio.Semaphore(min(WINDOW, window))
        if not self.connected.done():
            self.connected.set_result(None)

    def _now_acknowledged(self, mid: int, reason: ReasonCode) -> None:
        future = self._waiting.get(mid)
        if future is not None and not future.done():
            future.set_result(reason)

    def _now_subscribed(self, mid: int, reasons: list[ReasonCode]) -> None:
        if mid not in self._subscribing:
            return
        names, done = self._subscribing.pop(mid)
        if not done.done():
            done.set_result(None)
        for name, reason in zip(names, reasons, strict=False):
            if reason.is_failure:
                self._complain(f"The broker refuses the subscription to {name} ({reason}); check its rules.")

    def _now_received(self, message: Message) -> None:
        self._backlog.release()
        if not self._is_closed:
            self._receive(message)

    def _now_ended(self, end: End) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(UnavailableError(f"The connection to the broker was lost: {end.reason}."))
        if not self.ended.done():
            self.ended.set_result(end)

    # --- on the network thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            client = self._client = self._built()
            self._connect(client)
            if self._is_closed:
                client.disconnect()
            # `loop_forever` in a thread that is not paho's own would send what is published once a second.
            while client.loop() == paho.MQTT_ERR_SUCCESS:
                pass
            end = self._end or End("the connection was lost")
        except Exception as error:  # also paho's own, on packets that are none: the owner must hear of any end
            end = End(_explained(error, self._options.address))
        self._tell(self._now_ended, end)

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
            self._loop.call_soon_threadsafe(function, *arguments)

    def _built(self) -> paho.Client:
        options = self._options
        is_v5 = options.protocol == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            clean_session=None if is_v5 else not options.session_expiry_s,
            protocol=paho.MQTTv5 if is_v5 else paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(0xFFFF)  # the window is ours
        if options.username is not None or options.password_file is not None:
            client.username_pw_set(options.username or "", _password(options.password_file))
        if options.address.tls:
            client.tls_set_context(_tls_context(options))
        if options.will is not None:
            will = options.will
            properties = _will_properties(options) if is_v5 else None
            client.will_set(will.topic, will.payload, 1, will.retain, properties)
        client.on_socket_open = _send_at_once
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = lambda _c, _u, mid, reason, _p: self._tell(self._now_acknowledged, mid, reason)
        client.on_subscribe = lambda _c, _u, mid, reasons, _p: self._tell(self._now_subscribed, mid, reasons)
        client.on_message = self._on_message
        # With such a callback paho leaves all writing to its thread; it would else write from ours, too.
        client.on_socket_register_write = lambda *_: None
        return client

    def _connect(self, client: paho.Client) -> None:
        options = self._options
        address = options.address
        if options.protocol == "5":
            properties = _properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = options.session_expiry_s
            properties.MaximumPacketSize = options.packet_limit_bytes
            clean = options.session_expiry_s == 0
            client.connect(
                address.host, address.port, options.keepalive_s, clean_start=clean, properties=properties
            )
        else:
            client.connect(address.host, address.port, options.keepalive_s)

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: ReasonCode, found: Any) -> None:
        if reason.is_failure:
            self._end = End(f"the broker refuses the connection ({reason})")
            return
        limit = getattr(found, "MaximumPacketSize", None)
        self._tell(self._now_connected, limit, getattr(found, "ReceiveMaximum", None) or WINDOW)

    def _on_disconnect(self, _client: Any, _userdata: Any, flags: Any, reason: ReasonCode, _found: Any) -> None:
        if self._end is None:
            by_broker = flags.is_disconnect_packet_from_server
            said = f"the broker ended the connection ({reason})" if by_broker else "the connection was lost"
            self._end = End(said, taken_over=by_broker and reason.value == _TAKEN_OVER)

    def _on_message(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "\N{REPLACEMENT CHARACTER}"
        size, limit = len(message.payload), self._options.packet_limit_bytes
        if size > limit:
            self._tell(self._complain, f"A message of {size} bytes was dropped; {limit} are taken at most.")
            return
        properties = message.properties
        self._backlog.acquire()
        self._tell(
            self._now_received,
            Message(
                topic,
                bytes(message.payload),
                message.retain,
                response_topic=getattr(properties, "ResponseTopic", None),
                correlation=getattr(properties, "CorrelationData", None),
            ),
        )


def _send_at_once(_client: Any, _userdata: Any, sock: Any) -> None:
    """Without this, small packets wait up to 40 ms for the broker's acknowledgement of those before."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _properties(kind: int) -> Properties:
    return Properties(kind)  # type: ignore[no-untyped-call]


def _property_bytes(message: Message) -> int:
    return len((message.response_topic or "").encode()) + len(message.correlation or b"")


def _will_properties(options: BrokerOptions) -> Properties:
    properties = _properties(PacketTypes.WILLMESSAGE)
    properties.WillDelayInterval = options.will_delay_s
    return properties


def _password(path: str | None) -> str | None:
    if path is None:
        return None
    return Path(path).read_text(encoding="utf-8").strip()


def _tls_context(options: BrokerOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.ca_bundle)
    if options.client_certificate is not None:
        context.load_cert_chain(options.client_certificate, options.client_key)
    return context


def _explained(error: Exception, address: BrokerAddress) -> str:
    """Say for a person why there is no connection."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"the certificate of {address.host} cannot be trusted ({error.verify_message})"
        case ssl.SSLError():
            return f"TLS with {address.host} failed ({error.reason or error})"
        case socket.gaierror():
            return f"the name {address.host} cannot be resolved ({error.strerror})"
        case OSError() if error.filename:
            return f"{error.filename} cannot be read ({error.strerror})"
        case OSError():
            return error.strerror or str(error) or "no answer"
        case _:
            return str(error)
