"""The process is killed, or the power cut, at each flush, rename, link and unlink of a whole update."""

import os
import shutil
from collections import Counter
from pathlib import Path

import psutil
import pytest

from support.acknowledged import Memory, build_stores
from support.agent import wait_until
from support.boundaries import Boundary, traced
from support.disks import small_disk
from support.life import Stores, living
from support.power import Disk

BEFORE, UPTO = 2, 3
"""The update that is interrupted, by serials; the third is also rolled back and taken again."""
EVERY = int(os.environ.get("BOUNDARY_STEP", "1"))
"""The power is cut at each so many-th boundary; killed is at all of them."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return build_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def template(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a device that runs the second deployment."""
    folder = tmp_path_factory.mktemp("device") / "template"
    live(stores, folder, Memory(), BEFORE)
    return folder


@pytest.fixture(scope="module")
def boundaries(stores: Stores, template: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Boundary]:
    """All boundaries of the update, in order."""
    state = copied(template, tmp_path_factory.mktemp("traced"))
    with living(stores, state, UPTO) as life, traced(life.pid) as found:
        life.go()
        Memory().hear_all(life.rest())
    print(f"{len(found)} boundaries: {dict(Counter(boundary.call for boundary in found))}")
    assert len(found) > 60
    return found


def copied(template: Path, folder: Path) -> Path:
    return Path(shutil.copytree(template, folder / "state", symlinks=True))


def live(stores: Stores, state: Path, memory: Memory, upto: int) -> None:
    """Let the device live undisturbed."""
    with living(stores, state, upto) as life:
        life.go()
        memory.hear_all(life.rest())
    assert memory.ends[-1] == "done", memory.ends


def test_a_kill_at_each_boundary_leaves_all_or_nothing(
    stores: Stores, template: Path, boundaries: list[Boundary], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "memory", 64 * 2**20) as folder:
        for boundary in boundaries:
            state = copied(template, folder)
            memory = Memory.of(state)
            with living(stores, state, UPTO) as life, traced(life.pid, boundary):
                life.go()
                memory.hear_all(life.rest())
            assert life.process.exitcode == -9, (boundary, memory.ends)
            memory.check(stores, state)
            live(stores, state, memory, UPTO)
            memory.check(stores, state)
            assert memory.serial == UPTO, boundary
            shutil.rmtree(state)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_power_cut_at_a_boundary_loses_nothing(
    stores: Stores, template: Path, boundaries: list[Boundary], tmp_path: Path, kind: str
) -> None:
    with Disk(tmp_path, kind) as disk:
        for number, boundary in enumerate(boundaries[::EVERY]):
            (disk.folder / f"{number}").mkdir()
            state = copied(template, disk.folder / f"{number}")
            os.sync()
            memory = Memory.of(state)
            with living(stores, state, UPTO) as life, traced(life.pid, boundary, "STOP"):
                life.go()
                wait_until(lambda life=life: is_stopped(life.pid), f"it stops at {boundary}")
                cut_ns = disk.cut()
                life.kill()
                memory.hear_all(life.rest(), cut_ns)
            disk.power_on()
            memory.check(stores, state)
            shutil.rmtree(state)
        print(f"{kind}: power cut at {disk.cuts} of {len(boundaries)} boundaries")


def is_stopped(pid: int) -> bool:
    """Say whether a signal has stopped a process."""
    return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
