"""A device whose disk is full: it still looks, keeps what it has, and goes on once there is space."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.documents.errors import StorageError
from edge_agent.documents.settings import PathSettings, Settings
from support.disks import fill, small_disk
from support.tiny_fleet import Device, Fleet

pytestmark = pytest.mark.slow  # mounting needs root

SIZE_BYTES = 8 * 2**20


@pytest.fixture
def small(fleet: Fleet, device: Device, tmp_path: Path) -> Iterator[Device]:
    """A device with a small disk, which runs digits 1."""
    with small_disk(tmp_path / "disk", SIZE_BYTES) as disk:
        paths = PathSettings(state=str(disk / "state"), runtime=device.settings.paths.runtime)
        small = Device(Settings(device=device.settings.device, paths=paths, store=device.settings.store))
        fleet.publish(version="1")
        fleet.deploy("digits=1")
        small.sync()
        yield small


def content(device: Device) -> dict[str, bytes]:
    """Return every file of the state folder; the symlink's target is among them by its number."""
    files = (path for path in device.layout.base.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files}


def test_it_looks_and_finds_nothing_new(small: Device, fleet: Fleet) -> None:
    before = content(small)
    fill(small.layout.base.parent)
    assert small.sync(known_plans=None).status == "unchanged"
    result = small.sync(force=True)
    assert (result.status, result.warnings) == ("plan", ())
    assert content(small) == before


def test_it_looks_before_anything_was_ever_kept(fleet: Fleet, device: Device, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE_BYTES) as disk:
        paths = PathSettings(state=str(disk / "state"), runtime=device.settings.paths.runtime)
        new = Device(Settings(device=device.settings.device, paths=paths, store=device.settings.store))
        new.layout.create()
        ballast = fill(disk)
        with pytest.raises(StorageError, match=r"^Cannot write .*: No space left on device; free some space"):
            new.sync()
        assert content(new) == {}
        ballast.unlink()
        assert new.sync().status == "plan"


def test_what_is_new_fails_in_a_sentence_and_leaves_all_as_it_was(small: Device, fleet: Fleet) -> None:
    before, link = content(small), (small.layout.trust / "current").readlink()
    fleet.publish(version="2")
    fleet.deploy("digits=2")
    ballast = fill(small.layout.base.parent)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"^Cannot write .*: No space left on device; free some space"):
            small.sync()
    assert content(small) == before
    assert (small.layout.trust / "current").readlink() == link
    ballast.unlink()
    plan = small.sync().plan
    assert plan is not None
    assert [version.version for version in plan.versions] == ["2"]


def test_space_for_the_metadata_alone_keeps_it_and_names_what_is_missing(small: Device, fleet: Fleet) -> None:
    fleet.publish(version="2", size_bytes=2 * 2**20)
    fleet.deploy("digits=2")
    ballast = fill(small.layout.base.parent)
    with ballast.open("r+b") as file:
        file.truncate(ballast.stat().st_size - 2**20)
    with pytest.raises(StorageError, match=r"is too full for 2\.0 MiB of downloads: free 5\.\d MiB more"):
        small.sync()
    assert not list(small.layout.staging.iterdir())
    ballast.unlink()
    assert small.sync().status == "plan"
