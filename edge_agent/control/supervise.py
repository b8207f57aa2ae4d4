"""Keeps exactly one serving process alive: starts it, tells it the plan, notices when it dies or hangs."""

import asyncio
import dataclasses
import logging
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.control.children import LINE_LIMIT_BYTES, ending
from edge_agent.documents import ipc
from edge_agent.documents.plan import LeftOut, Plan
from edge_agent.documents.settings import Settings
from edge_agent.policy.crashes import restart_delay_s, suspects
from edge_agent.policy.guardrails import Figures
from edge_agent.store.layout import runtime_layout
from edge_agent.telemetry.health_page import SLOTS, HealthPage
from edge_agent.telemetry.oom_kills import OomKills

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.5
FROM_OUTSIDE: Final = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals that an operator or the kernel's out-of-memory killer sends: no version is charged for them, but for
the killer's while it is loaded."""


@dataclass(frozen=True, slots=True)
class ServingEnded:
    """The serving process is gone and another will be started.

    `suspects` are the keys of the versions to charge: those inside native code, unless it was killed from
    outside. `hung` tells a hang from a crash; `how` is a phrase for a person. `by_itself` is
    false for an end in order and for a kill from outside, but for one by a kernel that ran out of memory.
    `loading` is the key of the version that was being loaded, whoever is to blame.
    """

    how: str
    suspects: tuple[str, ...]
    hung: bool
    by_itself: bool = True
    loading: str | None = None


Notice = ipc.FromServing | ServingEnded


class ServingProcess:
    """The one serving child, over all of its lives."""

    def __init__(
        self,
        settings: Settings,
        sockets: Mapping[str, socket.socket],
        page: HealthPage,
        notify: Callable[[Notice], None],
        *,
        outcomes_db: Path,
        secret: str,
        unsigned: bool = False,
        oom_kills: OomKills | None = None,
    ) -> None:
        self._settings = settings
        self._sockets = sockets
        self._page = page
        self._notify = notify
        self._outcomes_db = outcomes_db
        self._secret = secret
        self._unsigned = unsigned
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._crashes: deque[float] = deque(maxlen=64)
        self._stopping = asyncio.Event()
        self._hang: ServingEnded | None = None
        self._oom_kills = oom_kills or OomKills()
        self._pending: Plan | None = None
        self.slots: dict[str, int] = {}
        """Slot on the health page of each version that serving was told of, by key."""
        self.plan: Plan | None = None
        """What serving has applied, None after a start."""
        self.ready = False
        self.problems: list[str] = []
        """What is set and cannot be served, one sentence each."""
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Process id, or None between two lives."""
        return None if self._process is None else self._process.pid

    @property
    def applying(self) -> bool:
        """Whether a plan was sent and not answered yet."""
        return self._pending is not None

    def apply(self, plan: Plan, left_out: tuple[LeftOut, ...] = (), *, prove: bool = False) -> None:
        """Send a plan, and what is deployed and not in it; `ipc.Applied` or `ipc.Refused` will be notified, or
        `ServingEnded`. With `prove`, new versions have to answer golden samples before they serve."""
        keys = {version.key for version in plan.versions}
        serving = {version.key for version in self.plan.versions} if self.plan is not None else set()
        self._assign_slots(keys, serving)
        self._pending = plan
        slots = {key: self.slots[key] for key in keys}
        self._send(ipc.Apply(plan=plan, slots=slots, prove=prove, left_out=left_out))

    def figures(self, key: str) -> Figures:
        """Return what a version has done since it was given its slot on the health page, if it has one."""
        slot = self.slots.get(key)
        if slot is None:
            return Figures()
        counts = self._page.snapshot().slots[slot]
        return Figures(counts.requests, counts.errors, self._page.run_times(slot))

    def tell_link(self, up: bool, outbox_events: int) -> None:
        """Send how the link to the fleet is, for `/metrics`."""
        self._send(ipc.Link(up=up, outbox_events=outbox_events))

    def tell_changed(self, changed: ipc.ModelChanged) -> None:
        """Send what came of a change of models that a client has asked for."""
        self._send(changed)

    async def run(self) -> None:
        """Keep a serving process alive until `stop`."""
        while not self._stopping.is_set():
            try:
                process, reader = await self._start()
            except OSError as error:
                log.error("Cannot start the serving process (%s); trying again.", error)  # noqa: TRY400
                self._crashes.append(time.monotonic())
            else:
                await self._live(process, reader)
            await self._pause()

    async def stop(self) -> None:
        """Let serving answer what it has begun, then end it; `run` returns afterwards."""
        self._stopping.set()
        if self._process is None:
            return
        self._send(ipc.Drain())
        process = self._process
        try:
            await asyncio.wait_for(process.wait(), self._settings.supervisor.drain_timeout_s)
        except TimeoutError:
            log.warning("The serving process did not finish in time; it is killed.")
            process.kill()

    async def _pause(self) -> None:
        now = time.monotonic()
        recent = sum(1 for crashed in self._crashes if now - crashed < 60.0)
        delay_s = restart_delay_s(recent)
        if delay_s and not self._stopping.is_set():
            log.warning("The serving process ended %d times within a minute; waiting %g s.", recent, delay_s)
            try:
                await asyncio.wait_for(self._stopping.wait(), delay_s)
            except TimeoutError:
                return

    async def _start(self) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader]:
        ours, theirs = socket.socketpair()
        with theirs:
            reader, self._writer = await asyncio.open_connection(sock=ours, limit=LINE_LIMIT_BYTES)
            try:
                self._process = await self._spawn(theirs)
            except BaseException:
                self._writer.close()
                raise
        self.starts += 1
        self._oom_kills.begin()
        return self._process, reader

    async def _live(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader) -> None:
        """One life: configure, listen, watch, and say how it ended."""
        assert self._writer is not None
        self._send(
            ipc.Configure(
                device=self._settings.device.id,
                http=self._settings.http,
                engines=self._settings.engines,
                cache=self._settings.cache,
                outcomes=self._settings.outcomes,
                outcomes_db=str(self._outcomes_db),
                secret=self._secret,
                grpc=self._settings.grpc,
                grpc_socket=str(runtime_layout(self._settings.paths).grpc_socket)
                if self._settings.grpc.socket
                else None,
                shared_memory=self._settings.shared_memory,
                sequences=self._settings.sequences,
                tasks=self._settings.tasks,
                memory=self._settings.memory,
                log_level=self._settings.log.level,
                unsigned=self._unsigned,
            )
        )
        if self._stopping.is_set():
            self._send(ipc.Drain())
        watching = asyncio.create_task(self._watch(process), name="serving watch")
        try:
            await self._listen(reader)  # until the process ends, whose end of the channel nobody else has
            status = await process.wait()
        finally:
            watching.cancel()
            self._writer.close()
            if process.returncode is None:
                process.kill()
        self._ended(status)

    async def _spawn(self, channel: socket.socket) -> asyncio.subprocess.Process:
        listen = ",".join(f"{role}:{sock.fileno()}" for role, sock in self._sockets.items())
        descriptors = [channel.fileno(), self._page.fd, *(sock.fileno() for sock in self._sockets.values())]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "edge_agent.serving.server"),
            *("--channel", str(channel.fileno()), "--health", str(self._page.fd), "--listen", listen),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
        )

    def _ended(self, status: int) -> None:
        end = ending(status)
        marked, loading = self._marked(), self._loading()
        hang, self._hang = self._hang, None
        self._page.clear_marks()
        self._process, self._writer = None, None
        had_served = self.plan is not None
        self.plan, self._pending, self.ready = None, None, False
        self.problems.clear()
        if self._stopping.is_set():
            return
        ran_out = end.cause == "signal" and end.code == signal.SIGKILL and self._oom_kills.were_any
        is_clean = end.cause == "exited" and end.code == 0
        from_outside = end.cause == "signal" and end.code in FROM_OUTSIDE
        charged = suspects(marked, loading, is_clean=is_clean, from_outside=from_outside, ran_out=ran_out)
        how = f"{end.how} for lack of memory" if ran_out else end.how
        by_itself = ran_out or not (is_clean or from_outside)
        if by_itself or hang is not None or not had_served:
            # One that somebody else kills is started again at once, however often that happens.
            self._crashes.append(time.monotonic())
        ended = hang or ServingEnded(how, charged, hung=False, by_itself=by_itself)
        self._notify(dataclasses.replace(ended, loading=loading))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        decoder = msgspec.json.Decoder(ipc.FromServing)
        while line := await _line(reader):
            try:
                message = decoder.decode(line)
            except msgspec.DecodeError as error:
                log.warning("Serving wrote what is no message (%s): %r", error, line[:200])
                continue
            match message:
                case ipc.Ready():
                    self.ready = True
                case ipc.Applied():
                    self.plan, self._pending = self._pending, None
                case ipc.Refused():
                    self._pending = None
                case ipc.Impaired():
                    self.problems.append(message.message)
            self._notify(message)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill a serving process that hangs: in native code, before it is ready, or with a dead loop."""
        limits = self._settings.supervisor
        started = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            self._oom_kills.look()
            now_ns = time.monotonic_ns()
            if overdue := self._overdue(now_ns):
                how = f"did not return from a run of {', '.join(overdue)} in time"
                self._hang = ServingEnded(how, overdue, hung=True)
            elif not self.ready and time.monotonic() - started > limits.start_timeout_s:
                self._hang = ServingEnded("did not become ready in time", (), hung=True)
            elif self.ready and self._silent_s(now_ns) > limits.heartbeat_timeout_s:
                suspects = tuple(sorted(self._marked()))
                self._hang = ServingEnded("stopped answering", suspects, hung=True)
            else:
                continue
            log.error("The serving process %s; it is killed.", self._hang.how)
            process.kill()
            return

    def _silent_s(self, now_ns: int) -> float:
        return (now_ns - self._page.snapshot().heartbeat_ns) / 1e9

    def _overdue(self, now_ns: int) -> tuple[str, ...]:
        keys = {slot: key for key, slot in self.slots.items()}
        limits = {version.key: version.run_limit_s for version in (self.plan.versions if self.plan else ())}
        loading_s = self._settings.supervisor.start_timeout_s
        return tuple(
            sorted(
                keys[mark.slot]
                for mark in self._page.snapshot().marks
                if mark.slot in keys
                and (now_ns - mark.started_ns) / 1e9 > limits.get(keys[mark.slot], loading_s)
            )
        )

    def _loading(self) -> str | None:
        slot = self._page.snapshot().loading
        return next((key for key, given in self.slots.items() if given == slot), None)

    def _marked(self) -> set[str]:
        keys = {slot: key for key, slot in self.slots.items()}
        return {keys[mark.slot] for mark in self._page.snapshot().marks if mark.slot in keys}

    def _assign_slots(self, wanted: Collection[str], serving: Collection[str]) -> None:
        """Give each wanted version a slot; those neither wanted nor served lose theirs."""
        for key in set(self.slots) - set(wanted) - set(serving):
            del self.slots[key]
        free = iter(sorted(set(range(SLOTS)) - set(self.slots.values())))
        for key in sorted(set(wanted) - set(self.slots)):
            slot = next(free)
            self._page.clear_slot(slot)
            self.slots[key] = slot

    def _send(self, message: ipc.ToServing) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(message) + b"\n")


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ConnectionError:
        return b""
