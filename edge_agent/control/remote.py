"""What the fleet asks of this device: commands, answered to their sender, and hints to look at the store."""

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from edge_agent.control.broker_link import MqttClient
from edge_agent.control.complaints import Complaints
from edge_agent.control.mqtt import Message
from edge_agent.documents.errors import EdgeAgentError, RequestError, UnavailableError
from edge_agent.documents.messages import DesiredHint
from edge_agent.documents.topics import LEVEL, Topics

log = logging.getLogger(__name__)

Command = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Takes the arguments, returns what is answered; raises EdgeAgentError."""

COMMANDS_LIMIT: Final = 8
"""Commands that may be under way at once."""
PAYLOAD_LIMIT_BYTES: Final = 64 * 1024
SPREAD_LIMIT_S: Final = 86_400.0
VAIN_LOOK_S: Final = 5.0
"""How long after a look that brought nothing yet the next hint is heeded."""
ANSWER_EXPIRY_S: Final = 3600
_RESPONSE_LEVELS: Final = 8
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for JSON that is none, is not UTF-8, is nested too deeply, or means something else."""
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


class Remote:
    """Takes the messages of the fleet; nothing that comes in can end it.

    `newest_serial` says the highest serial that this device has or is about to run; `look` asks for a sync.
    """

    def __init__(
        self,
        client: MqttClient,
        complaints: Complaints,
        topics: Topics,
        device: str,
        commands: Mapping[str, Command],
        newest_serial: Callable[[], int],
        look: Callable[[], None],
    ) -> None:
        self._client = client
        self._complaints = complaints
        self._topics = topics
        self._device = device
        self._commands = commands
        self._newest_serial = newest_serial
        self._look = look
        self._group = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._due: asyncio.TimerHandle | None = None
        self._looked: tuple[float, int] | None = None
        """When a hint made this device look last, and the serial that it had."""
        client.subscribe(topics.down(device, "cmd", "#"))

    def follow(self, group: str) -> None:
        """Heed the hints to this group, and to no other."""
        if group == self._group:
            return
        if self._group:
            self._client.unsubscribe(self._topics.desired(self._group))
        self._group = group
        if LEVEL.fullmatch(group):
            self._client.subscribe(self._topics.desired(group))

    def receive(self, message: Message) -> None:
        """Take one message; what is wrong with it becomes an event."""
        head = self._topics.down(self._device, "cmd") + "/"
        try:
            if self._group and message.topic == self._topics.desired(self._group):
                self._heed(message)
            elif message.topic.startswith(head):
                self._begin(message.topic.removeprefix(head), message)
            else:
                raise RequestError("nothing is expected there")  # noqa: TRY301
        except EdgeAgentError as error:
            self._complaints.tell(f"A message on {shown(message.topic)} was ignored: {error}.")
        except Exception:
            log.exception("A message on %s failed", shown(message.topic))

    def stop(self) -> None:
        """Drop what is under way."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        for task in self._tasks:
            task.cancel()

    # --- hints -----------------------------------------------------------------------------------------------

    def _heed(self, message: Message) -> None:
        """Look at the store some time within the spread, if there is a serial that this device has not."""
        if not message.payload:
            return  # the hint was cleared
        try:
            hint = msgspec.json.decode(message.payload, type=DesiredHint)
        except UNREADABLE as error:
            raise RequestError(f"it is no hint, {error}") from error
        if hint.serial <= self._newest_serial():
            return
        loop = asyncio.get_running_loop()
        due_s = loop.time() + random.random() * min(hint.spread_s, SPREAD_LIMIT_S)  # noqa: S311
        if self._looked is not None and self._looked[1] == self._newest_serial():
            due_s = max(due_s, self._looked[0] + VAIN_LOOK_S)
        if self._due is None or due_s < self._due.when():
            if self._due is not None:
                self._due.cancel()
            self._due = loop.call_at(due_s, self._look_now)

    def _look_now(self) -> None:
        self._due = None
        self._looked = asyncio.get_running_loop().time(), self._newest_serial()
        self._look()

    # --- commands --------------------------------------------------------------------------------------------

    def _begin(self, verb: str, message: Message) -> None:
        if message.retain:
            raise RequestError("a command must not be retained; clear it there and send it without retain")
        if message.response_topic is not None and not self._may_answer(message.response_topic):
            raise RequestError(f"its Response Topic is not under {self._topics.up(self._device, 'res')}/")
        if len(message.payload) > PAYLOAD_LIMIT_BYTES:
            raise RequestError(f"it has more than {PAYLOAD_LIMIT_BYTES} bytes")
        if len(self._tasks) >= COMMANDS_LIMIT:
            raise RequestError(f"{COMMANDS_LIMIT} commands are under way already")
        task = asyncio.create_task(self._obey(verb, message), name=f"command {shown(verb)}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _may_answer(self, topic: str) -> bool:
        head = self._topics.up(self._device, "res") + "/"
        levels = topic.removeprefix(head).split("/")
        return (
            topic.startswith(head)
            and len(levels) <= _RESPONSE_LEVELS
            and all(LEVEL.fullmatch(level) for level in levels)
        )

    async def _obey(self, verb: str, message: Message) -> None:
        answer: dict[str, Any]
        try:
            answer = {"result": await self._perform(verb, message.payload)}
        except EdgeAgentError as error:
            answer = {"error": str(error)}
            if message.response_topic is None:
                self._complaints.tell(f"The command '{shown(verb)}' failed: {error}")
        except Exception:
            log.exception("The command %s failed", shown(verb))
            answer = {"error": "The agent failed at this command; its log says where."}
        if message.response_topic is not None:
            await self._answer(message, answer)

    async def _perform(self, verb: str, payload: bytes) -> Any:
        command = self._commands.get(verb)
        if command is None:
            known = ", ".join(sorted(self._commands))
            raise RequestError(f"No command is named '{shown(verb)}'; there are {known}.")
        try:
            arguments = msgspec.json.decode(payload, type=dict[str, Any]) if payload else {}
            return await command(arguments)
        except UNREADABLE as error:
            raise RequestError(f"The command's payload is malformed: {error}.") from error

    async def _answer(self, message: Message, answer: Mapping[str, Any]) -> None:
        assert message.response_topic is not None
        reply = Message(
            message.response_topic,
            msgspec.json.encode(answer),
            expiry_s=ANSWER_EXPIRY_S,
            correlation=message.correlation,
        )
        try:
            await self._client.publish(reply)
        except UnavailableError as error:
            log.warning("An answer was lost: %s", error)
        except EdgeAgentError as error:
            self._complaints.tell(str(error))


def shown(text: str) -> str:
    """Return foreign text as it may stand in a sentence: printable and short."""
    clean = _UNPRINTABLE.sub("?", text)
    return clean if len(clean) <= 120 else f"{clean[:117]}..."
