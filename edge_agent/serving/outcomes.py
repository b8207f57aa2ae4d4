"""Taking outcomes: a thread that gathers requests, stores what they bring in one transaction, and answers.

The disk is written at most once in the commit interval, unless many outcomes wait: the first after a pause is
stored at once, those that follow it wait for each other. Nothing is acknowledged before it is on the disk.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edge_agent.documents.errors import EdgeAgentError, StorageError, UnavailableError
from edge_agent.documents.settings import OutcomeSettings
from edge_agent.serving import outcome_bodies
from edge_agent.serving.http_messages import Reply, Response, error_response, failure
from edge_agent.store.outcomes_db import Outcome, OutcomesDb

BATCH: Final = 64
"""Outcomes that are stored without waiting for more."""
WAITING_LIMIT: Final = 4096
"""Requests that may wait for the disk; more get 503."""
RETRY_AFTER_S: Final = 5.0

_FAILED: Final = "The server failed on this request; its log says more."
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Given:
    """A request as it came."""

    model: str
    body: bytes
    reply: Reply


@dataclass(slots=True)
class _Waiting:
    """A request that was read: what became of each outcome, and those that are still to be stored, by index."""

    reply: Reply
    results: list[outcome_bodies.Result]
    outcomes: dict[int, Outcome] = field(default_factory=dict)


class Outcomes:
    """Answers the requests that bring outcomes; all methods are for the event loop's thread.

    `secret` is what prediction ids are authenticated with; `on_damage` is told in one sentence, on the loop,
    that the database was damaged and has been set aside.
    """

    def __init__(
        self,
        path: Path,
        secret: bytes,
        settings: OutcomeSettings,
        on_damage: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._db = OutcomesDb(path)
        self._secret = secret
        self._window_s = settings.window_s
        self._interval_s = settings.commit_interval_s
        self._on_damage = on_damage
        self._clock = clock
        self._queue: queue.SimpleQueue[_Given | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="outcomes", daemon=True).start()

    def take(self, model: str, body: bytes, reply: Reply) -> None:
        """Answer a request once what it brings is stored; raises UnavailableError when too many wait."""
        if self._queue.qsize() >= WAITING_LIMIT:
            raise UnavailableError("Too many outcomes wait for the disk; send them again later.", RETRY_AFTER_S)
        self._queue.put(_Given(model, body, reply))

    def hurry(self) -> None:
        """From now on store without waiting for more, as the process is about to end."""
        self._interval_s = 0.0
        self._queue.put(None)

    # --- on the thread ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        last_s = -float("inf")
        while True:
            if batch := self._gather(last_s):
                last_s = time.monotonic()
                self._finish(batch)

    def _gather(self, last_s: float) -> list[_Waiting]:
        """Wait for a request, and for more until the interval since the last write is over or many wait."""
        batch: list[_Waiting] = []
        count = 0
        given = self._queue.get()
        while True:
            if given is not None and (waiting := self._read(given)) is not None:
                batch.append(waiting)
                count += len(waiting.outcomes)
            if count >= outcome_bodies.OUTCOMES_LIMIT:
                return batch
            left_s = last_s + self._interval_s - time.monotonic()
            try:
                given = (
                    self._queue.get(timeout=left_s)
                    if left_s > 0 and count < BATCH
                    else self._queue.get_nowait()
                )
            except queue.Empty:
                return batch

    def _read(self, given: _Given) -> _Waiting | None:
        """Read a request; None if it is answered already, with nothing in it to store. Never raises."""
        try:
            waiting = self._understand(given)
        except EdgeAgentError as error:
            self._answer(given.reply, failure(error))
            return None
        except Exception:
            log.exception("Reading outcomes failed")
            self._answer(given.reply, error_response(500, _FAILED))
            return None
        if waiting.outcomes:
            return waiting
        self._answer(given.reply, outcome_bodies.respond(waiting.results))
        return None

    def _understand(self, given: _Given) -> _Waiting:
        raws = outcome_bodies.parse(given.body)
        waiting = _Waiting(given.reply, [None] * len(raws))
        now_s = self._clock()
        for index, raw in enumerate(raws):
            try:
                waiting.outcomes[index] = outcome_bodies.read(raw, given.model, self._secret, now_s)
            except EdgeAgentError as error:
                waiting.results[index] = error
        return waiting

    def _finish(self, batch: list[_Waiting]) -> None:
        """Store what waits, and answer it. Never raises."""
        try:
            self._store(batch)
            responses = [outcome_bodies.respond(waiting.results) for waiting in batch]
        except StorageError as error:
            log.warning("%s", error)
            responses = [failure(UnavailableError(str(error), RETRY_AFTER_S))] * len(batch)
        except Exception:
            log.exception("Storing outcomes failed")
            responses = [error_response(500, _FAILED)] * len(batch)
        for waiting, response in zip(batch, responses, strict=True):
            self._answer(waiting.reply, response)

    def _store(self, batch: list[_Waiting]) -> None:
        outcomes = [outcome for waiting in batch for outcome in waiting.outcomes.values()]
        oldest_s = int(self._clock() - self._window_s)
        verdicts = iter(self._db.record(outcomes, oldest_s))
        self._report_damage()
        for waiting in batch:
            for (index, outcome), verdict in zip(waiting.outcomes.items(), verdicts, strict=False):
                waiting.results[index] = outcome_bodies.explain(outcome, verdict, self._window_s)

    def _report_damage(self) -> None:
        if self._db.set_aside is not None:
            message = (
                f"The outcomes database was damaged and is now {self._db.set_aside}; a new one was begun, "
                "and an outcome that the old one held could be counted again."
            )
            self._db.set_aside = None
            log.warning("%s", message)
            self._loop.call_soon_threadsafe(self._on_damage, message)

    def _answer(self, reply: Reply, response: Response) -> None:
        self._loop.call_soon_threadsafe(reply.send, response)
