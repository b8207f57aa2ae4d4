"""The serving process: answers local apps on inherited sockets, and does what the supervisor says.

    python -m edge_agent.serving.server --channel FD --health FD --listen infer:FD[,http:FD][,metrics:FD]

The channel is one end of a socketpair that speaks `documents.ipc`; the process ends when it closes.
"""

import argparse
import asyncio
import dataclasses
import logging
import os
import random
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import uvloop

from edge_agent.documents.errors import OperatorError
from edge_agent.documents.ipc import (
    Apply,
    Configure,
    Drain,
    FromServing,
    Impaired,
    Link,
    Metrics,
    ModelChanged,
    Ready,
    StateDamaged,
    ToServing,
)
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.app import App
from edge_agent.serving.applier import Applier
from edge_agent.serving.cache import ResultCache
from edge_agent.serving.http1 import Connection
from edge_agent.serving.http_messages import Application, Limits
from edge_agent.serving.intake import Intake
from edge_agent.serving.memo import Memo
from edge_agent.serving.memory import keep_pages_between_runs
from edge_agent.serving.metrics_report import metrics_message
from edge_agent.serving.outcomes import Outcomes
from edge_agent.serving.pipeline import Pipeline
from edge_agent.serving.predictions import PredictionIds
from edge_agent.serving.repository import Repository
from edge_agent.serving.residency import Residency
from edge_agent.serving.rpc import start as rpc
from edge_agent.serving.scheduler import Scheduler
from edge_agent.serving.shared_memory import Regions
from edge_agent.telemetry.counters import Counters, LinkState
from edge_agent.telemetry.health_page import HealthPage

if TYPE_CHECKING:
    from edge_agent.serving.rpc.server import RpcServer

BACKLOG: Final = 4096
"""Connections that may wait to be accepted; with asyncio's 100 a restart under load refuses thousands."""

HEARTBEAT_S: Final = 0.25
DRAIN_GRACE_S: Final = 0.25
"""How long a drained connection stays open for the request that may be on its way."""
DRAIN_LIMIT_S: Final = 25.0

_SWEEP_S: Final = 1.0
_TELL_S: Final = 2.0
"""How often the supervisor is told what was counted."""
_OTHER_DESCRIPTORS: Final = 256
"""What models, databases, regions of shared memory and the refusal of clients may need beside connections."""
_MAX_LINE_BYTES: Final = 64 * 2**20
log = logging.getLogger(__name__)
_MESSAGES: Final = msgspec.json.Decoder(ToServing)


@dataclass(frozen=True, slots=True)
class Options:
    """The descriptors that the process inherits; `listeners` are (purpose, descriptor)."""

    channel: int
    health: int
    listeners: tuple[tuple[str, int], ...]


class Server:
    """One serving process."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._page = HealthPage.attach(options.health)
        self._connections: set[Connection] = set()
        self._listeners: list[asyncio.AbstractServer] = []
        self._stopping = asyncio.Event()
        self._plans: asyncio.Queue[Apply] = asyncio.Queue()
        self._rpc: RpcServer | None = None

    async def run(self) -> None:
        """Serve until the supervisor, a signal or the end of the channel says to stop; then drain."""
        reader, writer = await asyncio.open_unix_connection(
            sock=socket.socket(fileno=self._options.channel), limit=_MAX_LINE_BYTES
        )
        first = await _read(reader)
        if not isinstance(first, Configure):
            return
        logging.getLogger().setLevel(first.log_level.upper())
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stopping.set)
        counters = Counters()
        counters.cache.max_bytes = first.cache.max_bytes
        cache = ResultCache(first.cache, secrets.token_bytes(64), counters.cache, time.monotonic)
        ids = PredictionIds(bytes.fromhex(first.secret))
        scheduler = Scheduler(first.http.queue_limit)
        residency = Residency(scheduler, counters, first.engines, first.memory, self._page)
        pipeline = Pipeline(
            Accounts(self._page, counters),
            cache,
            ids,
            scheduler,
            first.sequences,
            random.random,
            first.http.queue_limit,
            first.memory.wait_limit_s,
        )
        outcomes = Outcomes(
            Path(first.outcomes_db),
            bytes.fromhex(first.secret),
            first.outcomes,
            lambda message: _send(writer, StateDamaged(message=message)),
        )
        repository = Repository(lambda message: _send(writer, message))
        regions = Regions(first.shared_memory, first.http.max_body_bytes)
        app = App(pipeline, Memo(cache), outcomes, counters, repository, regions, first)
        await self._listen(app, first)
        try:
            self._rpc = await rpc.start(first, pipeline, app, regions)
        except OperatorError as error:
            log.error("%s", error)  # noqa: TRY400
            _send(writer, Impaired(message=str(error)))
        self._page.heartbeat()
        _send(writer, Ready(pid=os.getpid()))
        applier = Applier(pipeline, residency, first.device)
        tasks = [
            asyncio.create_task(self._obey(reader, counters, repository), name="obey"),
            asyncio.create_task(self._apply(applier, app, writer), name="apply"),
            asyncio.create_task(self._beat(), name="beat"),
            asyncio.create_task(self._sweep(pipeline), name="sweep"),
            asyncio.create_task(residency.stay_lean(), name="lean"),
            asyncio.create_task(self._tell(counters, pipeline, writer), name="tell"),
        ]
        for task in tasks:
            task.add_done_callback(self._note_end)
        await self._stopping.wait()
        app.stop()
        outcomes.hurry()
        await self._drain()

    async def _listen(self, app: App, configure: Configure) -> None:
        applications: dict[str, Application] = {"infer": app, "http": app, "metrics": app.metrics_only}
        http = configure.http
        intake = Intake(http.max_bodies_bytes)
        max_connections = _connection_limit(http.max_connections)
        for purpose, descriptor in self._options.listeners:
            listening = socket.socket(fileno=descriptor)
            is_unix = listening.family == socket.AF_UNIX
            limits = Limits(
                max_connections,
                http.max_body_bytes,
                http.idle_timeout_s,
                http.request_timeout_s,
                refuse_origins=not is_unix,
            )
            self._listeners.append(await self._serve(listening, is_unix, applications[purpose], limits, intake))

    async def _serve(
        self, listening: socket.socket, is_unix: bool, application: Application, limits: Limits, intake: Intake
    ) -> asyncio.AbstractServer:
        def connect() -> Connection:
            return Connection(application, limits, self._connections, intake)

        if not is_unix:
            return await self._loop.create_server(connect, sock=listening, backlog=BACKLOG)
        if sys.version_info >= (3, 13):
            # The socket belongs to the supervisor and outlives this process; its path must, too.
            return await self._loop.create_unix_server(
                connect, sock=listening, backlog=BACKLOG, cleanup_socket=False
            )
        return await self._loop.create_unix_server(connect, sock=listening, backlog=BACKLOG)

    async def _tell(self, counters: Counters, pipeline: Pipeline, writer: asyncio.StreamWriter) -> None:
        """Tell the supervisor what was counted, when anything was."""
        started_s, told = time.time(), None
        while True:
            now = metrics_message(counters, pipeline.table.plan, started_s, 0.0)
            if now != told:
                told = now
                _send(writer, Metrics(metrics=dataclasses.replace(now, time_s=time.time())))
            await asyncio.sleep(_TELL_S)

    async def _obey(self, reader: asyncio.StreamReader, counters: Counters, repository: Repository) -> None:
        while not self._stopping.is_set():
            match await _read(reader):
                case Apply() as apply:
                    self._plans.put_nowait(apply)
                case ModelChanged() as changed:
                    repository.settle(changed)
                case Link() as link:
                    counters.link = LinkState(link.up, link.outbox_events)
                case Drain():
                    log.info("Draining, as the supervisor asked")
                    self._stopping.set()
                case None:
                    log.info("Draining, as the supervisor is gone")
                    await self._finish_plans()
                    self._stopping.set()
                case Configure():
                    log.warning("Ignored a second configuration; it needs a new process")

    async def _apply(self, applier: Applier, app: App, writer: asyncio.StreamWriter) -> None:
        while True:
            apply = await self._plans.get()
            outcome = await applier.apply(apply)
            app.is_ready = app.is_ready or applier.has_applied
            app.open()
            if self._rpc is not None:
                self._rpc.open()
            _send(writer, outcome)
            self._plans.task_done()

    async def _finish_plans(self) -> None:
        """Let what is being loaded be loaded, so that those who wait for it are answered."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._plans.join(), DRAIN_LIMIT_S)

    async def _beat(self) -> None:
        while True:
            self._page.heartbeat()
            await asyncio.sleep(HEARTBEAT_S)

    async def _sweep(self, pipeline: Pipeline) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_s = self._loop.time()
            pipeline.sequences.sweep()
            for connection in tuple(self._connections):
                connection.check_deadline(now_s)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Stop when a task of the process has died: the supervisor starts a sound one."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("The task '%s' died", task.get_name(), exc_info=error)
            self._stopping.set()

    async def _drain(self) -> None:
        """Accept no more, give every connection its last answer, and wait for them to end, up to a limit."""
        for listener in self._listeners:
            listener.close()
        calls = asyncio.create_task(self._rpc.stop(DRAIN_LIMIT_S), name="gRPC drain") if self._rpc else None
        for connection in self._connections:
            connection.drain()
        await asyncio.sleep(DRAIN_GRACE_S if self._connections else 0)
        limit_s = self._loop.time() + DRAIN_LIMIT_S
        while self._connections and self._loop.time() < limit_s:
            for connection in tuple(self._connections):
                connection.drain()
                connection.close_if_idle()
            await asyncio.sleep(0.01)
        for connection in tuple(self._connections):
            connection.abort()
        if calls is not None:
            await calls


def _connection_limit(wanted: int) -> int:
    """Have the kernel allow as many descriptors as that takes; return how many connections it does allow."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = hard if hard != resource.RLIM_INFINITY else wanted + _OTHER_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(allowed, wanted + _OTHER_DESCRIPTORS), hard))
    return max(min(wanted, allowed - _OTHER_DESCRIPTORS), 1)


async def _read(reader: asyncio.StreamReader) -> ToServing | None:
    """Return the next message, or None when the supervisor is gone."""
    try:
        line = await reader.readline()
    except ConnectionError:
        return None
    return _MESSAGES.decode(line) if line.endswith(b"\n") else None


def _send(writer: asyncio.StreamWriter, message: FromServing) -> None:
    # The supervisor may be gone, which whoever reads from it notices.
    if not writer.is_closing():
        writer.write(msgspec.json.encode(message) + b"\n")


def parse_options(arguments: Sequence[str]) -> Options:
    """Read the command line; exits with a usage message when it is wrong."""
    parser = argparse.ArgumentParser(prog="edge_agent.serving.server", description=__doc__)
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--health", type=int, required=True)
    parser.add_argument("--listen", type=_listeners, required=True)
    namespace = parser.parse_args(arguments)
    return Options(namespace.channel, namespace.health, namespace.listen)


def _listeners(text: str) -> tuple[tuple[str, int], ...]:
    listeners = []
    for entry in text.split(","):
        purpose, _, descriptor = entry.partition(":")
        if purpose not in ("infer", "http", "metrics"):
            raise ValueError(purpose)
        listeners.append((purpose, int(descriptor)))
    return tuple(listeners)


def main() -> None:
    """Run the process."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s serving: %(message)s")
    options = parse_options(sys.argv[1:])
    keep_pages_between_runs()

    async def serve() -> None:
        await Server(options).run()

    code = 0
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())
    except Exception:
        log.exception("The serving process failed")
        code = 1
    # Without waiting for worker threads: all answers are out, and one may hang in native code for ever.
    os._exit(code)


if __name__ == "__main__":
    main()
