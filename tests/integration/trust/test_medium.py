"""A store on a medium, such as a USB stick: copied in part, read-only, with surprises on it."""

import os
import shutil
from pathlib import Path

import pytest

from edge_agent.documents.errors import ArtifactError, StoreUnreachableError
from support.disks import read_only
from support.tiny_fleet import Device, Fleet


@pytest.fixture
def stick(fleet: Fleet, tmp_path: Path) -> Path:
    """A copy of a store with digits 1 deployed."""
    fleet.publish(version="1")
    fleet.deploy("digits=1")
    return Path(shutil.copytree(fleet.store, tmp_path / "stick/store"))


@pytest.fixture
def offline(device: Device) -> Device:
    return device.with_store(url=None)


def copied_in_part(stick: Path, without: str) -> None:
    for path in stick.glob(without):
        path.unlink() if path.is_file() else shutil.rmtree(path)


@pytest.mark.parametrize(
    "without", ["metadata/timestamp.json", "metadata/*.snapshot.json", "metadata/*.targets.json"]
)
def test_missing_metadata_is_named_and_a_full_copy_recovers(
    without: str, stick: Path, fleet: Fleet, offline: Device
) -> None:
    copied_in_part(stick, without)
    with pytest.raises(
        StoreUnreachableError, match=r"has no .*\.json: copy the store to this folder again, whole"
    ):
        offline.sync(folder=str(stick))
    shutil.copytree(fleet.store, stick, dirs_exist_ok=True)
    assert offline.sync(folder=str(stick)).status == "plan"


@pytest.mark.parametrize("without", ["targets", "blobs"])
def test_missing_files_change_nothing(without: str, stick: Path, fleet: Fleet, offline: Device) -> None:
    copied_in_part(stick, without)
    with pytest.raises(StoreUnreachableError, match=f"has no .*/{without}/.*: copy the store"):
        offline.sync(folder=str(stick))
    assert not list(offline.layout.blobs.glob("*/*"))
    shutil.copytree(fleet.store, stick, dirs_exist_ok=True)
    assert offline.sync(folder=str(stick)).status == "plan"


def test_what_is_here_needs_not_be_on_it(stick: Path, device: Device) -> None:
    device.sync()
    copied_in_part(stick, "blobs")
    assert device.sync(folder=str(stick), force=True).status == "plan"


def test_an_old_copy_is_no_way_back(stick: Path, fleet: Fleet, device: Device) -> None:
    fleet.publish(version="2")
    fleet.deploy("digits=2")
    device.sync()
    with pytest.raises(Exception, match="goes back"):
        device.sync(folder=str(stick))


def test_a_copy_that_broke_off_in_a_file(stick: Path, offline: Device) -> None:
    blob = max(stick.glob("blobs/sha256/*/*"), key=lambda path: path.stat().st_size)
    content = blob.read_bytes()
    blob.write_bytes(content[:100_000])
    with pytest.raises(StoreUnreachableError, match="ended after 100000 of 300000 bytes"):
        offline.sync(folder=str(stick))
    blob.write_bytes(content)
    assert offline.sync(folder=str(stick)).status == "plan"


def test_the_folder_above_is_told_from_the_store(stick: Path, offline: Device) -> None:
    with pytest.raises(
        StoreUnreachableError, match="holds no store: name the folder that has `metadata` in it"
    ):
        offline.sync(folder=str(stick.parent))


@pytest.mark.parametrize("place", ["metadata/timestamp.json", "blobs"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_what_is_no_plain_file_blocks_nothing(kind: str, place: str, stick: Path, offline: Device) -> None:
    path = stick / place if place != "blobs" else next(stick.glob("blobs/sha256/*/*"))
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
    with pytest.raises((StoreUnreachableError, ArtifactError), match=path.name):
        offline.sync(folder=str(stick))


@pytest.mark.slow  # mounting needs root
def test_a_read_only_medium_is_enough(stick: Path, offline: Device) -> None:
    with read_only(stick):
        assert offline.sync_child(folder=str(stick)).status == "plan"


def test_a_name_with_spaces_and_signs(stick: Path, offline: Device) -> None:
    odd = Path(shutil.copytree(stick, stick.parent / "my store #1%20"))
    assert offline.sync(folder=str(odd)).status == "plan"
