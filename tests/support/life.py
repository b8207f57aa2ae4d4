"""What a device does to its disk, by the agent's own functions, in a process that can be ended at any moment.

A `Life` takes up one state of a store after the other: fetches it, activates it, records events and outcomes,
sends events, goes back and forth, collects garbage. Before a thing that changes the disk it says what it tries,
afterwards that it is done, which is an acknowledgement: from then on it must not be lost. A `Memory` notes what
was said, and holds a disk against it (`support.acknowledged`).
"""

import dataclasses
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.control.sync import synchronize
from edge_agent.documents.errors import EdgeAgentError, StorageError
from edge_agent.documents.ipc import SyncRequest
from edge_agent.documents.messages import Event
from edge_agent.documents.plan import Plan
from edge_agent.documents.settings import DeviceSettings, PathSettings, Settings, StoreSettings
from edge_agent.policy.prediction_id import Prediction
from edge_agent.store import state as state_file
from edge_agent.store.blobs import BlobStore
from edge_agent.store.events_db import EventsDb
from edge_agent.store.layout import StateLayout
from edge_agent.store.outcomes_db import Outcome, OutcomesDb, read_sums
from edge_agent.store.secret import load_secret

NOW_S = int(time.time())
STATES = 8
"""States of the store, one deployment each, before a device begins anew."""
PRELOADED = ("edge_agent.control.pull", "edge_agent.store.events_db", "edge_agent.store.outcomes_db")
"""What takes long to import, so that a process begins to live at once."""

Word = tuple[str, Any, int]
"""What is said, about what, and when (`time.monotonic_ns`)."""


@dataclass(frozen=True)
class Stores:
    """The states of one store, oldest first: state `n` deploys serial `n`."""

    folder: Path

    def at(self, serial: int) -> str:
        return str(self.folder / str(serial))

    def settings(self, state: Path) -> Settings:
        root = str(self.folder / "root.json")
        return Settings(
            device=DeviceSettings(id="bench-1"),
            paths=PathSettings(state=str(state), runtime=str(state)),
            store=StoreSettings(url="file:///nowhere", root=root),
        )


class Life:
    """One run of the device, told what to do by nobody: it goes on where its disk says that it was."""

    def __init__(self, stores: Stores, folder: Path, say: "Say") -> None:
        self._stores = stores
        self._settings = stores.settings(folder)
        self._layout = StateLayout(folder)
        self._say = say

    def run(self, upto: int = STATES) -> None:
        """Take up the states of the store that follow the one that runs, up to this one."""
        self._layout.create()
        load_secret(self._layout.secret)
        self.state, problem = state_file.load(self._layout.state)
        if problem is not None:
            raise StorageError(problem)
        with (
            closing(EventsDb.open(self._layout.events, keep_unsent=True)) as self.events,
            closing(OutcomesDb(self._layout.outcomes)) as self.outcomes,
        ):
            self._number = sum(
                sums.n for epoch in read_sums(self._layout.outcomes).epochs for sums in epoch.sums
            )
            for serial in range(self.state.current.serial + 1, upto + 1):
                self._take_up(serial)

    def _take_up(self, serial: int) -> None:
        plan = self._fetch(serial)
        self._event("installed")
        for _ in range(4):
            self._outcome()
        self._activate(plan, self.state.current)
        self._event("activated")
        BlobStore(self._layout).collect(
            [digest for p in self._kept() for v in p.versions for digest in v.files]
        )
        if serial % 3 == 0 and self.state.previous is not None:
            self._activate(self.state.previous, plan)
            self._event("rolled_back")
            self._activate(plan, self.state.current)
        self._send()

    def _kept(self) -> list[Plan]:
        return [self.state.current, self.state.previous or Plan()]

    def _fetch(self, serial: int) -> Plan:
        self._say("fetch", serial)
        request = SyncRequest(settings=self._settings, quarantined={}, folder=self._stores.at(serial))
        result = synchronize(request, datetime.now(UTC), lambda _: None)
        if result.plan is None:
            # It was brought before a cut, but not taken as the target.
            result = synchronize(
                msgspec.structs.replace(request, force=True), datetime.now(UTC), lambda _: None
            )
        assert result.plan is not None
        self._change(target=result.plan)
        self._say("fetched", serial)
        return result.plan

    def _activate(self, plan: Plan, old: Plan) -> None:
        self._say("activate", plan.serial)
        self._change(current=plan, previous=old, target=None)
        self._say("activated", plan.serial)

    def _change(self, **fields: Any) -> None:
        changed = dataclasses.replace(self.state, **fields)
        state_file.save(self._layout.state, changed)
        self.state = changed

    def _event(self, kind: Any) -> None:
        self._say("event", kind)
        self.events.append([Event(kind, float(NOW_S), "It happened.")])
        self._say("recorded", kind)

    def _outcome(self) -> None:
        number = self._number
        self._say("outcome", number)
        prediction = Prediction("m", "e", 1, "a", number % 64, NOW_S, number.to_bytes(8, "big"))
        verdicts = self.outcomes.record([Outcome(prediction, {"x": float(number)})], NOW_S - 86_400)
        assert verdicts == ["accepted"], verdicts
        self._number += 1
        self._say("stored", number)

    def _send(self) -> None:
        newest = self.events.unsent(1000)[-1].seq
        self._say("send", newest)
        self.events.acknowledge(newest)
        self._say("sent", newest)


class Say:
    """Tells the test what is tried and what is done."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, word: str, value: Any) -> None:
        self._connection.send((word, value, time.monotonic_ns()))


# --- in a process of its own -----------------------------------------------------------------------------


def _live(stores: Stores, folder: Path, upto: int, words: Connection, go: Connection) -> None:
    go.recv()
    say = Say(words)
    try:
        Life(stores, folder, say).run(upto)
        say("end", "done")
    except EdgeAgentError as error:
        say("end", str(error))
    except BaseException as error:
        say("end", f"BUG {error!r}")
        raise


class LifeProcess:
    """A life in a process that was forked from one in which everything is imported; a context manager."""

    def __init__(self, stores: Stores, folder: Path, upto: int = STATES) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        self.words, theirs = context.Pipe(duplex=False)
        wait, self._go = context.Pipe(duplex=False)
        self.process = context.Process(target=_live, args=(stores, folder, upto, theirs, wait))
        self.process.start()
        theirs.close()
        wait.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def go(self) -> None:
        self._go.send(None)

    def heard(self, timeout_s: float) -> Word | None:
        """Return the next thing that it says; None if it says nothing in this time; EOFError at its end."""
        if not self.words.poll(timeout_s):
            return None
        word: Word = self.words.recv()
        return word

    def rest(self) -> Iterator[Word]:
        """Yield all that it says until it ends."""
        try:
            while True:
                yield self.words.recv()
        except EOFError:
            self.process.join(30)

    def kill(self) -> None:
        self.process.kill()


@contextmanager
def living(stores: Stores, folder: Path, upto: int = STATES) -> Iterator[LifeProcess]:
    """Start a life that waits for `go`; it is killed at the end of the block."""
    life = LifeProcess(stores, folder, upto)
    try:
        yield life
    finally:
        life.kill()
        life.process.join(30)
        life.words.close()
