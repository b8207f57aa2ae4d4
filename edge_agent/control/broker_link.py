"""Stays connected to an MQTT broker: connects again, later and later, and subscribes again each time."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_agent.control.mqtt import BrokerOptions, End, Message, Session
from edge_agent.documents.errors import EdgeAgentError, UnavailableError
from edge_agent.policy.backoff import reconnect_delay_s, rival_delay_s

log = logging.getLogger(__name__)

CONNECT_LIMIT_S: Final = 30.0
FAREWELL_LIMIT_S: Final = 2.0
SETTLED_S: Final = 600.0
"""A connection that held for so long is not counted as one more in a row that failed."""
BRIEF_S: Final = 30.0
BRIEF_LIMIT: Final = 3
"""So many connections in a row that were made and lost within `BRIEF_S` are taken for a fight over the id: not
every broker says that another client took over."""


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """How the connection is; `since_s` is Unix time, `reason` says why it is down."""

    up: bool
    since_s: float
    reason: str = ""


class MqttClient:
    """Stays connected to one broker; `receive`, `came_up` and `complain` are called on the event loop.

    `complain` gets one sentence for an operator each time that something other than the network goes wrong.
    """

    def __init__(
        self,
        options: BrokerOptions,
        *,
        receive: Callable[[Message], None],
        came_up: Callable[[], None],
        complain: Callable[[str], None],
    ) -> None:
        self._options = options
        self._receive = receive
        self._came_up = came_up
        self._complain = complain
        self._filters: dict[str, bool] = {}
        self._session: Session | None = None
        self._up = asyncio.Event()
        self.status = LinkStatus(up=False, since_s=time.time(), reason="not connected yet")

    async def run(self) -> None:
        """Connect, and connect again whenever the connection is lost, until cancelled."""
        failures = takeovers = brief = 0
        while True:
            began_s = time.monotonic()
            end = await self._live()
            lasted_s = time.monotonic() - began_s
            if lasted_s > SETTLED_S:
                failures = takeovers = 0
            brief = brief + 1 if self.status.up and lasted_s < BRIEF_S else 0
            if end.taken_over or brief >= BRIEF_LIMIT:
                # Where the broker tells it is sure; mosquitto 2.0.11 for one only ends the connection.
                doubt = "" if end.taken_over else " (if they have, the broker's log says why it ends them)"
                self._complain(
                    f"Another client seems to use the id '{self._options.client_id}' at "
                    f"{self._options.address}: give each device an id of its own{doubt}."
                )
                takeovers += 1
                brief = 0
                delay_s = rival_delay_s(takeovers, random.random())  # noqa: S311
            else:
                failures = 1 if self.status.up else failures + 1
                delay_s = reconnect_delay_s(failures, random.random())  # noqa: S311
            self._note_down(end.reason)
            await asyncio.sleep(delay_s)

    async def wait_up(self) -> None:
        """Wait until there is a connection."""
        await self._up.wait()

    def subscribe(self, topic_filter: str, *, no_local: bool = False) -> None:
        """Ask for the messages of a filter, on this and on every later connection."""
        if topic_filter not in self._filters:
            self._filters[topic_filter] = no_local
            if self._session is not None and self._up.is_set():
                self._session.subscribe({topic_filter: no_local})

    def unsubscribe(self, topic_filter: str) -> None:
        """Take no more messages of a filter."""
        known = self._filters.pop(topic_filter, None) is not None
        if known and self._session is not None and self._up.is_set():
            self._session.unsubscribe(topic_filter)

    async def publish(self, message: Message) -> None:
        """Publish with QoS 1; returns when the broker has acknowledged.

        Raises UnavailableError without a connection or if it is lost, PayloadTooLargeError for more than the
        broker takes, OperatorError if it refuses, RequestError for a topic that cannot be published to.
        """
        if self._session is None or not self._up.is_set():
            raise UnavailableError(f"There is no connection to {self._options.address}: {self.status.reason}.")
        await self._session.publish(message)

    async def stop(self, farewell: Message | None = None) -> None:
        """Say farewell if there is a connection, and close it; call before cancelling `run`."""
        if self._session is None or not self._up.is_set():
            return
        with contextlib.suppress(EdgeAgentError, TimeoutError):
            async with asyncio.timeout(FAREWELL_LIMIT_S):
                if farewell is not None:
                    await self._session.publish(farewell)
                self._session.close()
                await self._session.ended

    async def _live(self) -> End:
        """One connection, from its first packet to its end."""
        session = self._session = Session(self._options, self._receive, self._complain)
        session.start()
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                await _either(session.connected, session.ended)
                if session.connected.done():
                    await _either(session.subscribe(self._filters), session.ended)
            if not session.ended.done():
                self.status = LinkStatus(up=True, since_s=time.time())
                log.info("Connected to %s", self._options.address)
                self._up.set()
                self._came_up()
            return await session.ended
        except TimeoutError:
            return End("the broker did not answer in time")
        finally:
            self._up.clear()
            session.close()
            self._session = None

    def _note_down(self, reason: str) -> None:
        if self.status.up or reason != self.status.reason:
            log.warning("No connection to %s: %s", self._options.address, reason)
            since_s = time.time() if self.status.up else self.status.since_s
            self.status = LinkStatus(up=False, since_s=since_s, reason=reason)


async def _either(first: asyncio.Future[None], other: asyncio.Future[End]) -> None:
    await asyncio.wait((first, other), return_when=asyncio.FIRST_COMPLETED)
