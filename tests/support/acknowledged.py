"""What a device has acknowledged, and whether its disk still has it."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.control.sync import synchronize
from edge_agent.documents.errors import TrustError
from edge_agent.documents.ipc import SyncRequest
from edge_agent.documents.plan import Plan
from edge_agent.store import state as state_file
from edge_agent.store.events_db import EventsDb
from edge_agent.store.layout import StateLayout
from edge_agent.store.outcomes_db import OutcomesDb, read_sums
from support.life import STATES, Stores, Word
from support.tiny_fleet import Fleet

_DONE = {"fetched", "activated", "recorded", "stored", "sent"}


_COUNTED = {"event": "events_tried", "recorded": "events", "outcome": "outcomes_tried", "stored": "outcomes"}
_NAMED = {"fetched": "fetched", "sent": "sent"}


@dataclass
class Memory:
    """What a device has said so far, over all of its lives."""

    serial: int = 0
    """Acknowledged as activated."""
    tried: frozenset[int] = frozenset()
    """Serials whose activation was tried since."""
    fetched: int = 0
    events: int = 0
    events_tried: int = 0
    outcomes: int = 0
    outcomes_tried: int = 0
    sent: int = 0
    ends: list[str] = field(default_factory=list)
    """How lives ended by themselves."""

    def hear(self, word: Word, cut_ns: int | None = None) -> None:
        """Note what was said; what was done after a cut began is as uncertain as what was only tried.

        A file system that was shut down may report a flush as done that was under way at that moment; after a
        real power cut nobody would hear of it.
        """
        kind, value, said_ns = word
        if cut_ns is not None and said_ns >= cut_ns and kind in _DONE:
            return
        if kind == "end":
            self.ends.append(value)
        elif kind == "activated":
            self.serial, self.tried = value, frozenset()
        elif kind == "activate":
            # After a cut several may be tried, since one may be reported as done.
            self.tried |= {value}
        elif kind in _COUNTED:
            setattr(self, _COUNTED[kind], getattr(self, _COUNTED[kind]) + 1)
        elif kind in _NAMED:
            setattr(self, _NAMED[kind], value)

    def hear_all(self, words: Iterable[Word], cut_ns: int | None = None) -> None:
        """Note all that is said; `cut_ns` is when the power was cut."""
        for word in words:
            self.hear(word, cut_ns)

    @classmethod
    def of(cls, folder: Path) -> "Memory":
        """Return what a device that is at rest has acknowledged, by its disk."""
        layout = StateLayout(folder)
        serial = state_file.load(layout.state)[0].current.serial
        with closing(EventsDb.open(layout.events, keep_unsent=True)) as events:
            stored, unsent = len(events.newest(10_000)), len(events.unsent(10_000))
        count = sum(sums.n for epoch in read_sums(layout.outcomes).epochs for sums in epoch.sums)
        return cls(serial, frozenset(), serial, stored, stored, count, count, stored - unsent)

    def check(self, stores: Stores, folder: Path) -> None:
        """Hold the disk against what was said, and take over what the disk has beyond it."""
        layout = StateLayout(folder)
        layout.create()  # the cut may have come before anything was
        state, problem = state_file.load(layout.state)
        assert problem is None, problem
        assert state.current.serial in self.tried | {self.serial}, (state.current.serial, self)
        self.serial, self.tried = state.current.serial, frozenset()
        check_files(layout, [state.current, state.previous or Plan(), state.target or Plan()])
        self._check_events(layout)
        self._check_outcomes(layout)
        self._check_trust(stores, folder)

    def _check_events(self, layout: StateLayout) -> None:
        with closing(EventsDb.open(layout.events, keep_unsent=True)) as events:
            assert events.set_aside is None
            stored, unsent = events.newest(10_000), events.unsent(10_000)
        assert self.events <= len(stored) <= self.events_tried, (len(stored), self)
        sent = len(stored) - len(unsent)
        assert [found.seq for found in unsent] == list(range(sent + 1, len(stored) + 1))
        assert sent >= self.sent, (sent, self)
        self.events = self.events_tried = len(stored)

    def _check_outcomes(self, layout: StateLayout) -> None:
        with closing(OutcomesDb(layout.outcomes)) as outcomes:
            outcomes.record([], 0)  # what must be replayed is
            assert outcomes.set_aside is None
        found = [sums for epoch in read_sums(layout.outcomes).epochs for sums in epoch.sums]
        count = sum(sums.n for sums in found)
        assert self.outcomes <= count <= self.outcomes_tried, (count, self)
        assert sum(sums.sum for sums in found) == count * (count - 1) / 2
        self.outcomes = self.outcomes_tried = count

    def _check_trust(self, stores: Stores, folder: Path) -> None:
        """A store that goes back behind what was fetched must be refused."""
        if self.fetched > 1:
            older = SyncRequest(stores.settings(folder), {}, force=True, folder=stores.at(self.fetched - 1))
            with pytest.raises(TrustError):
                synchronize(older, datetime.now(UTC), lambda _: None)


def check_files(layout: StateLayout, plans: list[Plan]) -> None:
    """Fail the test unless all files of the plans are there, and each that is there is what its name says."""
    for path in layout.blobs.glob("??/*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, (
            f"{path} is half-written, and trusted"
        )
    missing = [
        digest
        for plan in plans
        for v in plan.versions
        for digest in v.files
        if not layout.blob(digest).exists()
    ]
    assert not missing, missing


def build_stores(folder: Path) -> Stores:
    """Make the states of a store."""
    fleet = Fleet(folder / "fleet")
    fleet.repository.create(fleet.keys, fleet.now)
    shutil.copy(fleet.store / "root.json", folder / "root.json")
    for serial in range(1, STATES + 1):
        fleet.publish("digits", str(serial), 60_000)
        fleet.deploy(f"digits={serial}")
        shutil.copytree(fleet.store, folder / str(serial), copy_function=os.link)
    return Stores(folder)
