"""The power of a whole agent is cut under load and updates; it then serves its last good version offline."""

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from edge_agent.documents.messages import Event
from edge_agent.store.layout import StateLayout
from support.acknowledged import check_files
from support.agent import AgentProcess, wait_until
from support.fleet import Fleet
from support.power import Disk
from support.traffic import Asker, Updates, factor_of, stored_outcomes

CUTS = int(os.environ.get("AGENT_POWER_CUTS", "10"))
SEED = int(os.environ.get("FAULT_SEED", "6"))
VERSIONS = ["1", "2", "3", "4", "5", "6"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 15 * CUTS)]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet(tmp_path / "fleet")
    for version in VERSIONS:
        fleet.publish(version, factor_of(version), padding_bytes=200_000)
    fleet.deploy(m="1")
    return fleet


@pytest.fixture(params=["ext4", "xfs"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    with Disk(tmp_path, request.param) as disk:
        yield disk


@dataclass
class Promised:
    """What an agent had acknowledged when its power was cut."""

    serials: frozenset[int]
    """One of these is active."""
    outcomes: int
    outcomes_tried: int
    events: list[Event]
    newest: int = 1
    """The last serial that was deployed: the agent may take it up by itself as soon as it has a store again."""


class Store:
    """The way to the fleet's store, which can be cut off."""

    def __init__(self, fleet: Fleet, link: Path) -> None:
        self._fleet = fleet
        self.link = link
        self.connect()

    def connect(self) -> None:
        self.link.symlink_to(self._fleet.store)

    def cut_off(self) -> None:
        self.link.unlink()


def test_the_last_good_version_is_served_after_a_cut(disk: Disk, fleet: Fleet, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    store = Store(fleet, tmp_path / "store")
    agent = device(tmp_path, disk, fleet, store)
    agent.start()
    wait_until(lambda: agent.reported().serial == 1, "the first version serves")
    promised = Promised(frozenset({1}), 0, 0, [])
    updates = 0
    try:
        while disk.cuts < CUTS:
            updates += work_until_cut(agent, disk, fleet, promised, dice)
            store.cut_off()
            disk.power_on()
            agent.start()
            check(agent, promised)
            promised.serials = frozenset(range(agent.reported().serial, promised.newest + 1))
            store.connect()
    finally:
        agent.stop()
    disk.check()
    assert "Traceback" not in agent.log.read_text(), agent.log.read_text()[-5000:]
    print(f"{disk.kind}: {disk.cuts} cuts, {updates} activations, {promised.outcomes} outcomes")


def device(folder: Path, disk: Disk, fleet: Fleet, store: Store) -> AgentProcess:
    """Return an agent with its state on the disk, and its store behind a way that can be cut off."""
    where = {"url": store.link.as_uri(), "root": str(fleet.root), "poll_interval_s": 2}
    agent = AgentProcess(folder / "device", {"device": {"id": "device"}, "store": where})
    agent.state = disk.folder / "state"
    agent.settings["paths"]["state"] = str(agent.state)
    return agent


def work_until_cut(
    agent: AgentProcess, disk: Disk, fleet: Fleet, promised: Promised, dice: random.Random
) -> int:
    """Update the agent under load, cut its power, and note what it had promised; return its activations."""
    asker = Asker(agent.infer_socket, 0)
    asker.gives_up = True
    updates = Updates(agent, fleet, dice.sample(VERSIONS, len(VERSIONS)), promised.serials)
    try:
        time.sleep(dice.random() * 4.0)
        promised.events = agent.events()[-200:]
        cut_ns = disk.cut()
    finally:
        end(agent)
        updates.stop()
        asker.stop()
    assert not asker.broken and not updates.broken, (asker.broken, updates.broken)  # noqa: PT018
    promised.serials, promised.newest = updates.possible(cut_ns), updates.newest
    promised.outcomes_tried = promised.outcomes + asker.tried
    promised.outcomes += sum(told_ns < cut_ns for told_ns in asker.told_ns)
    return updates.activated


def end(agent: AgentProcess) -> None:
    """End all of the agent's processes at once."""
    assert agent.process is not None
    supervisor = psutil.Process(agent.process.pid)
    children = supervisor.children(recursive=True)
    agent.kill()
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(children, 10)


def check(agent: AgentProcess, promised: Promised) -> None:
    """Hold an agent that was started again, and has no store, against what it had promised."""
    wait_until(lambda: agent.reported().versions, "a version serves")
    factor, version = agent.factor()
    assert factor == factor_of(version)
    reported = agent.reported()
    assert reported.serial in promised.serials, (reported, promised.serials)
    promised.serials = frozenset({reported.serial})
    found = agent.events()
    lost = [event for event in promised.events if event not in found]
    assert not lost, lost
    assert not agent.events("state_damaged")
    stored = stored_outcomes(agent.state)
    assert promised.outcomes <= stored <= promised.outcomes_tried, (stored, promised)
    promised.outcomes = stored
    check_files(StateLayout(agent.state), [])
