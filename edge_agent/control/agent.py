"""The agent: puts the parts of the supervisor together, runs them, and ends them in order.

`python -m edge_agent.control.agent --launch-fd N` reads an `ipc.Launch` from descriptor N; `edge-agent run` and
`edge-agent serve` execute it in their own place.
"""

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

import edge_agent
from edge_agent.control import systemd
from edge_agent.control.actors import named
from edge_agent.control.admin import AdminServer
from edge_agent.control.commands import Commands
from edge_agent.control.deployer import Deployer
from edge_agent.control.durable_state import DurableState
from edge_agent.control.exposures import Exposures
from edge_agent.control.journal import Journal
from edge_agent.control.links import Links
from edge_agent.control.listen import listening_sockets, unix_socket
from edge_agent.control.reporter import Sight, report
from edge_agent.control.settings_repair import repaired, run_again
from edge_agent.control.store_watch import StoreWatch
from edge_agent.control.supervise import Notice, ServingProcess
from edge_agent.documents import ipc
from edge_agent.documents.errors import EdgeAgentError, StateLockedError
from edge_agent.documents.messages import Reported
from edge_agent.store import state as state_file
from edge_agent.store.blobs import BlobStore
from edge_agent.store.events_db import EventsDb
from edge_agent.store.files import mapping_os_errors
from edge_agent.store.layout import RuntimeLayout, StateLayout, runtime_layout, state_layout
from edge_agent.store.secret import load_secret
from edge_agent.store.state import DeployedState
from edge_agent.telemetry.health_page import HealthPage

log = logging.getLogger("edge_agent.agent")

ADMIN_MODE = 0o600


def main() -> int:
    """Run the agent until it is told to stop; return the exit code."""
    parser = argparse.ArgumentParser(prog="edge_agent.control.agent")
    parser.add_argument("--launch-fd", type=int, required=True)
    with os.fdopen(parser.parse_args().launch_fd, "rb") as file:
        launch = msgspec.json.decode(file.read(), type=ipc.Launch)
    logging.basicConfig(
        level=launch.settings.log.level.upper(), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    layout, runtime = state_layout(launch.settings.paths), runtime_layout(launch.settings.paths)
    inherited = systemd.inherited_sockets(os.environ, os.getpid())
    try:
        layout.create()
        with held_lock(layout.lock), open_sockets(launch, runtime, inherited) as (sockets, admin):
            again = asyncio.run(Agent(launch, layout, sockets).run(admin))
    except EdgeAgentError as error:
        print(f"edge-agent: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    if again:
        run_again(launch.config, [sock.fileno() for sock in inherited.values()])
    return 0


@contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Hold the lock of the state folder; raises StateLockedError naming the process that has it."""
    with mapping_os_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateLockedError(
                f"Another agent (process {file.read().strip() or 'unknown'}) holds the state folder "
                f"{path.parent}; stop it, or set paths.state to another folder."
            ) from None
        # Who holds it is for people alone: a disk too full to note that must not stop the agent.
        with suppressed_full_disk():
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield


@contextmanager
def suppressed_full_disk() -> Iterator[None]:
    """Log an OSError instead of raising it."""
    try:
        yield
    except OSError as error:
        log.warning("The lock file could not be written: %s", error)


@contextmanager
def open_sockets(
    launch: ipc.Launch, runtime: RuntimeLayout, inherited: Mapping[str, socket.socket]
) -> Iterator[tuple[dict[str, socket.socket], socket.socket]]:
    """Yield the listening sockets by role, and the admin socket; remove those that were bound here."""
    sockets = listening_sockets(launch.settings.http, runtime.infer_socket, inherited)
    bound = [runtime.infer_socket] if "infer" not in inherited else []
    if launch.settings.grpc.socket:
        # Serving binds it, and leaves it behind when it is killed.
        bound.append(runtime.grpc_socket)
    try:
        admin = unix_socket(runtime.admin_socket, ADMIN_MODE, None)
        bound.append(runtime.admin_socket)
        with admin:
            yield sockets, admin
    finally:
        for path in bound:
            path.unlink(missing_ok=True)


class Agent:
    """The composition root of the supervisor."""

    def __init__(self, launch: ipc.Launch, layout: StateLayout, sockets: Mapping[str, socket.socket]) -> None:
        settings = launch.settings
        self._settings = settings
        self._sockets = sockets
        self._page = HealthPage.create()
        self._notifier = systemd.Notifier.from_environment(os.environ, os.getpid())
        self._journal = Journal(lambda: EventsDb.open(layout.events, keep_unsent=settings.mqtt.url is not None))
        self._state = DurableState(layout.state, self._initial_state(launch, layout))
        self._watch = StoreWatch(settings, self._journal)
        self._serving = ServingProcess(
            settings,
            sockets,
            self._page,
            self._notice,
            outcomes_db=layout.outcomes,
            secret=load_secret(layout.secret),
            unsigned=launch.plan is not None,
        )
        self._deployer = Deployer(
            settings, self._state, self._journal, BlobStore(layout), self._watch, self._serving
        )
        self._links = Links(
            settings,
            self._journal,
            Exposures(self._page, self._serving),
            layout.outcomes,
            self._deployer,
            self._state,
            self._serving,
            self.report,
        )
        self._launch = launch
        self._changes: set[asyncio.Task[None]] = set()
        self._told_ready = False

    async def run(self, admin: socket.socket) -> bool:
        """Run until SIGTERM or SIGINT, or until a part fails.

        Return whether to start again, since settings that were broken are repaired.
        """
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        commands = Commands(
            self._deployer,
            self._state,
            self._watch,
            self._serving,
            self._journal,
            self._links,
            self.report,
            addresses(self._sockets),
        )
        server = AdminServer(commands.verbs)
        await server.start(admin)
        self._journal.record("started", f"Edge Agent {edge_agent.__version__} is starting.")
        parts: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._serving.run(), name="serving"),
            asyncio.create_task(self._deployer.run(), name="deployer"),
            asyncio.create_task(self._keep_alive(), name="watchdog"),
            asyncio.create_task(stop.wait(), name="stop"),
            *(asyncio.create_task(work, name=name) for name, work in self._links.works().items()),
        ]
        if self._launch.problems:
            self._journal.record("warning", f"Running on the last valid settings: {self._launch.problems[0]}")
            parts.append(asyncio.create_task(repaired(self._launch.config), name="settings"))
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._notifier.stopping()
            again = bool(self._launch.problems) and parts[-1].done() and not stop.is_set()
            await self._end(server, parts)
        return again

    def report(self) -> Reported:
        """Say what really runs."""
        snapshot = self._page.snapshot()
        return report(
            Sight(
                device=self._settings.device.id,
                state=self._state.value,
                wanted=self._deployer.wanted,
                serving=self._serving.plan,
                left_out=self._deployer.selection.left_out,
                probing=self._deployer.probing,
                counts={key: snapshot.slots[slot] for key, slot in self._serving.slots.items()},
                sync=self._watch.report,
                problems=self._problems(),
                withheld=self._deployer.selection.withheld,
                waits=self._watch.waits,
                bake=self._deployer.baking.report,
            )
        )

    def _problems(self) -> list[str]:
        own = (self._state.problem, self._journal.problem)
        return [
            *self._launch.problems,
            *self._watch.problems,
            *self._deployer.problems,
            *self._serving.problems,
            *(problem for problem in own if problem),
        ]

    def _initial_state(self, launch: ipc.Launch, layout: StateLayout) -> DeployedState:
        if launch.plan is not None:
            return DeployedState(current=launch.plan)
        state, problem = state_file.load(layout.state)
        if problem is not None:
            self._journal.record("state_damaged", problem)
        return state

    def _notice(self, notice: Notice) -> None:
        self._deployer.notice(notice)
        self._links.notice(notice)
        if isinstance(notice, ipc.ChangeModel):
            task = asyncio.create_task(self._change_model(notice), name=f"change of {notice.model}")
            self._changes.add(task)
            task.add_done_callback(self._changes.discard)
        if isinstance(notice, ipc.StateDamaged):
            self._journal.record("state_damaged", notice.message)
        if isinstance(notice, ipc.Impaired):
            self._journal.record("warning", notice.message)
        if isinstance(notice, ipc.Applied) and not self._told_ready:
            self._told_ready = True
            self._notifier.ready()
            where = ", ".join(addresses(self._sockets).values())
            log.info("Ready: serving %d versions on %s", len(self._deployer.wanted.versions), where)

    async def _change_model(self, asked: ipc.ChangeModel) -> None:
        """Do what a client of serving has asked for, and have it told."""
        try:
            await self._deployer.change_model(asked.model, asked.load, named(asked.actor))
            changed = ipc.ModelChanged(id=asked.id)
        except EdgeAgentError as error:
            changed = ipc.ModelChanged(id=asked.id, error=str(error), status=error.status)
        self._serving.tell_changed(changed)

    async def _keep_alive(self) -> None:
        """Reset systemd's watchdog for as long as this loop turns."""
        interval_s = (self._notifier.watchdog_s or 60.0) / 3
        while True:
            self._notifier.alive()
            self._notifier.status(f"Serving {len(self._deployer.wanted.versions)} versions")
            await asyncio.sleep(interval_s)

    async def _end(self, server: AdminServer, parts: list[asyncio.Task[Any]]) -> None:
        serving, deployer, *others = parts
        failed = [task for task in parts[:3] if task.done()]
        await server.stop()
        await self._links.stop()
        for task in (deployer, *others):
            task.cancel()
        await self._serving.stop()
        results = await asyncio.gather(serving, deployer, *others, return_exceptions=True)
        self._links.close()
        self._journal.record("stopped", "Edge Agent is stopping.")
        self._state.flush()
        self._journal.close()
        for task, result in zip((serving, deployer, *others), results, strict=True):
            if task in failed:
                log.critical("The %s ended by itself.", task.get_name(), exc_info=result)
        if failed:
            raise EdgeAgentError("A part of the agent failed; the log says which, and a restart recovers it.")


def addresses(sockets: Mapping[str, socket.socket]) -> dict[str, str]:
    """Return where each listening socket is: a path, or host:port."""
    found = {}
    for role, sock in sockets.items():
        name = sock.getsockname()
        found[role] = name if isinstance(name, str) else f"{name[0]}:{name[1]}"
    return found


if __name__ == "__main__":
    sys.exit(main())
