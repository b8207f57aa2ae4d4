"""Inference and outcomes over MQTT, for apps on this device or its network.

What comes on `<topic>/infer/<model>` or on a bound topic is a request with the JSON body of HTTP; its answer
goes to the Response Topic, or else to `<topic>/result/<model>` or the binding's. `id` is echoed, in errors too.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from edge_agent.control.broker_link import LinkStatus, MqttClient
from edge_agent.control.complaints import Complaints
from edge_agent.control.inference_client import InferenceClient
from edge_agent.control.mqtt import BrokerOptions, Message
from edge_agent.control.remote import UNREADABLE, shown
from edge_agent.documents.errors import EdgeAgentError, RequestError, UnavailableError
from edge_agent.documents.mqtt_url import broker_address
from edge_agent.documents.settings import LocalMqttSettings
from edge_agent.documents.topics import matches

log = logging.getLogger(__name__)

IN_FLIGHT: Final = 16
"""Requests that are with serving at once."""
WAITING_LIMIT: Final = 256
"""Requests that may wait for that; more are answered with an error at once."""
PACKET_LIMIT_BYTES: Final = 4 * 2**20
WAITING_LIMIT_BYTES: Final = 16 * 2**20
"""What all requests that are with serving or wait may have together: the supervisor stays small."""
ANSWER_EXPIRY_S: Final = 60


@dataclass(frozen=True, slots=True)
class _Job:
    """One request: what to ask serving for, and where its answer goes."""

    model: str
    action: Literal["infer", "outcomes"]
    message: Message
    answer_topic: str


class LocalApps:
    """Answers local apps; `reserved` is a topic prefix that no answer may go to, the fleet's."""

    def __init__(
        self, settings: LocalMqttSettings, device: str, socket: Path, complaints: Complaints, reserved: str
    ) -> None:
        self._settings = settings
        self._complaints = complaints
        self._reserved = reserved
        self._serving = InferenceClient(socket)
        self._places = asyncio.Semaphore(IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._held_bytes = 0
        self._filters = (
            f"{settings.topic}/infer/+",
            f"{settings.topic}/outcomes/+",
            *(binding.filter for binding in settings.bindings),
        )
        self._client = MqttClient(
            broker_options(settings, device),
            receive=self._receive,
            came_up=lambda: None,
            complain=complaints.tell,
        )
        for name in dict.fromkeys(self._filters):
            self._client.subscribe(name, no_local=True)

    @property
    def status(self) -> LinkStatus:
        """How the connection is."""
        return self._client.status

    async def run(self) -> None:
        """Answer until cancelled."""
        try:
            await self._client.run()
        finally:
            for task in self._tasks:
                task.cancel()
            self._serving.close()

    async def stop(self) -> None:
        """Disconnect; call before cancelling `run`."""
        await self._client.stop()

    def _receive(self, message: Message) -> None:
        try:
            job = self._job(message)
        except RequestError as error:
            self._complaints.tell(f"A message on {shown(message.topic)} was ignored: {error}.")
            return
        size_bytes = len(message.payload)
        if (
            len(self._tasks) >= 2 * (IN_FLIGHT + WAITING_LIMIT)
            or self._held_bytes + size_bytes > WAITING_LIMIT_BYTES
        ):
            self._complaints.tell(
                "Requests over MQTT come faster than they can even be refused; some were dropped."
            )
            return
        task = asyncio.create_task(self._answer(job), name=f"local app's request to {shown(job.model)}")
        self._tasks.add(task)
        self._held_bytes += size_bytes
        task.add_done_callback(lambda task: self._forget(task, size_bytes))

    def _forget(self, task: asyncio.Task[None], size_bytes: int) -> None:
        self._tasks.discard(task)
        self._held_bytes -= size_bytes

    def _job(self, message: Message) -> _Job:
        """Return what a message asks for; raises RequestError for one that must not be answered."""
        if message.retain:
            raise RequestError("a request must not be retained")
        model, action, result = self._route(message.topic)
        topic = message.response_topic or result
        if any(letter in topic for letter in "+#\0") or topic.startswith((f"{self._reserved}/", "$")):
            raise RequestError(f"its answer must not go to {shown(topic)}")
        if any(matches(name, topic) for name in self._filters):
            raise RequestError(f"its answer would go to {shown(topic)}, where requests are taken")
        return _Job(model, action, message, topic)

    def _route(self, topic: str) -> tuple[str, Literal["infer", "outcomes"], str]:
        base = self._settings.topic
        head, _, model = topic.rpartition("/")
        result = f"{base}/result/{model}"
        if head == f"{base}/infer":
            return model, "infer", result
        if head == f"{base}/outcomes":
            return model, "outcomes", result
        for binding in self._settings.bindings:
            if matches(binding.filter, topic):
                return binding.model, "infer", binding.result
        raise RequestError("nothing is expected there")

    async def _answer(self, job: _Job) -> None:
        request_id: Any = None
        try:
            content = _content(job.message.payload)
            request_id = content.get("id")
            body = await self._ask(job, content)
        except EdgeAgentError as error:
            body = _error(str(error), request_id)
        except Exception:
            log.exception("A request of a local app failed")
            body = _error("The agent failed on this request; its log says more.", request_id)
        answer = Message(job.answer_topic, body, expiry_s=ANSWER_EXPIRY_S, correlation=job.message.correlation)
        try:
            await self._client.publish(answer)
        except UnavailableError as error:
            log.warning("An answer was lost: %s", error)
        except EdgeAgentError as error:
            self._complaints.tell(str(error))

    async def _ask(self, job: _Job, content: dict[str, msgspec.Raw]) -> bytes:
        if len(self._tasks) > IN_FLIGHT + WAITING_LIMIT:
            raise UnavailableError(f"{WAITING_LIMIT} requests over MQTT wait already; try again later.")
        request_id = content.get("id")
        if job.action == "outcomes":
            content = {name: value for name, value in content.items() if name != "id"}
        async with self._places:
            answer = await self._serving.post(job.model, job.action, msgspec.json.encode(content))
        if not answer.is_json:
            raise RequestError("Binary outputs cannot be sent over MQTT; leave out binary_data_output.")
        answered = _content(answer.body)
        if request_id is not None:
            answered["id"] = request_id
        return msgspec.json.encode(answered)


def broker_options(settings: LocalMqttSettings, device: str) -> BrokerOptions:
    """Return how to connect to the broker of local apps; raises SettingsError for a URL that names none."""
    return BrokerOptions(
        address=broker_address(settings.url or ""),
        client_id=f"{device}-apps",
        protocol=settings.protocol,
        username=settings.username,
        password_file=settings.password_file,
        ca_bundle=settings.ca_bundle,
        client_certificate=settings.client_certificate,
        client_key=settings.client_key,
        packet_limit_bytes=PACKET_LIMIT_BYTES,
    )


def _content(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except UNREADABLE as error:
        raise RequestError(f"The request is no JSON object: {error}.") from error


def _error(message: str, request_id: Any) -> bytes:
    return msgspec.json.encode({"error": message} | ({} if request_id is None else {"id": request_id}))
