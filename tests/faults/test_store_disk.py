"""The disk is full or read-only while a store is changed: one sentence, and the store is as it was."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_fleet.cli import main
from edge_fleet.keys import KeyFolder
from edge_fleet.repository import Repository
from edge_fleet.verify import verify
from support.disks import read_only, small_disk
from support.tiny_fleet import build_package


def make(store: Path, keys: Path) -> None:
    Repository(store).create(KeyFolder(keys), datetime.now(UTC))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_a_full_disk_at_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys"
    package = build_package(tmp_path, size_bytes=100_000)
    make(tmp_path / "empty", keys)
    page = 4096
    refusals = 0
    # From a disk that has no room for the first blob to one that has room for all but the last file.
    for pages in range(18, 60):
        place = tmp_path / f"disk-{pages}"
        with small_disk(place, pages * page):
            store = place / "store"
            try:
                shutil.copytree(tmp_path / "empty", store)
            except shutil.Error:
                continue
            before = (store / "metadata/timestamp.json").read_bytes()
            publish = ["publish", str(store), str(package), "--keys", str(keys)]
            if main(publish) == 0:
                break
            refusals += 1
            assert "No space left on device; free some space on that disk" in refused(capsys, *publish)
            assert (store / "metadata/timestamp.json").read_bytes() == before
            assert verify(Repository(store), datetime.now(UTC)).findings == ()
    else:
        pytest.fail("no disk was large enough")
    assert refusals > 5


def test_a_read_only_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, keys = tmp_path / "store", tmp_path / "keys"
    make(store, keys)
    with read_only(store):
        for command in (
            ["refresh"],
            ["publish", build_package(tmp_path)],
            ["rotate", "timestamp", "--new-key"],
        ):
            said = refused(capsys, command[0], store, *command[1:], "--keys", keys)
            assert "Read-only file system; mount that file system writable" in said
        assert "Read-only file system" in refused(capsys, "gc", store)
        assert main(["verify", str(store)]) == 0
        assert main(["list", str(store)]) == 0
