"""The power is cut while a device works, on ext4 and xfs; what it had acknowledged is there afterwards."""

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.store.files import write_atomically
from support.acknowledged import Memory, build_stores
from support.life import STATES, Stores, living
from support.power import Disk

CUTS = int(os.environ.get("POWER_CUTS", "200"))
SEED = int(os.environ.get("FAULT_SEED", "6"))

TRIALS = 10

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 2 * CUTS)]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return build_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture(params=["ext4", "xfs"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    with Disk(tmp_path, request.param) as disk:
        yield disk


def live_until_cut(stores: Stores, disk: Disk, state: Path, memory: Memory, dice: random.Random) -> str:
    """Let the device work and cut its power; return what it had said last."""
    last = "nothing"
    words_left = dice.randint(0, 45)
    with living(stores, state) as life:
        life.go()
        while words_left and (word := life.heard(30.0)) is not None:
            memory.hear(word)
            last = word[0]
            words_left -= 1
            if last == "end":
                assert memory.ends[-1] == "done", memory.ends
                return last
        # Somewhere in what it does next, most of which takes milliseconds.
        deadline = time.perf_counter() + dice.choice((0.0, 0.0005, 0.002, 0.01, 0.05)) * dice.random()
        while time.perf_counter() < deadline:
            pass
        memory.hear_all(life.rest(), disk.cut())
    return last


def test_what_was_acknowledged_outlives_a_power_cut(stores: Stores, disk: Disk) -> None:
    dice, memory = random.Random(SEED), Memory()
    cut_after = Counter[str]()
    state = disk.folder / "state-1"
    while disk.cuts < CUTS:
        cut_after[live_until_cut(stores, disk, state, memory, dice)] += 1
        disk.power_on()
        memory.check(stores, state)
        if memory.serial == STATES:
            shutil.rmtree(state)
            # Another folder: the removal may be undone by the next cut.
            state = disk.folder / f"state-{disk.cuts + 1}"
            memory = Memory(ends=memory.ends)
    disk.check()
    assert not [how for how in memory.ends if how.startswith("BUG")], memory.ends
    assert len(cut_after) >= min(9, CUTS // 10), cut_after
    print(f"{disk.kind}: {disk.cuts} cuts, after {dict(cut_after)}")


def test_the_cut_finds_a_missing_fsync(disk: Disk) -> None:
    """A writer that renames without a flush loses what it wrote; else nothing here could ever fail."""
    found = 0
    for number in range(TRIALS):
        path = disk.folder / "state.json"
        temporary = path.with_name("new")
        temporary.write_text(f"{number}")
        temporary.replace(path)
        disk.cut()
        disk.power_on()
        found += not path.exists() or path.read_text() != f"{number}"
    print(f"{disk.kind}: {found} of {TRIALS} missing flushes found")
    assert found == TRIALS


def test_a_cut_spares_what_was_flushed(disk: Disk) -> None:
    for number in range(TRIALS):
        path = disk.folder / "state.json"
        write_atomically(path, f"{number}".encode())
        disk.cut()
        disk.power_on()
        assert path.read_text() == f"{number}"
