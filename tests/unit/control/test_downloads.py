"""Downloads from a store in memory, piece by piece: a sync that is slow must never look stuck."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_agent.control import progress
from edge_agent.control.downloads import Downloads
from edge_agent.control.fetch import Polled, StoreFileMissingError
from edge_agent.control.metering import Meter
from edge_agent.control.pull import _drop_damaged
from edge_agent.documents.errors import StorageError
from edge_agent.documents.ipc import SyncProgress
from edge_agent.documents.manifest import File, blob_path, patch_path
from edge_agent.documents.settings import Settings
from edge_agent.store import blobs, packing
from edge_agent.store.blobs import BlobStore, Stream
from edge_agent.store.layout import StateLayout

PIECES = 10
OLD = os.urandom(3 * 2**20)
NEW = OLD[:1_000_000] + os.urandom(20_000) + OLD[1_020_000:]


@dataclass
class Site:
    """A device, and a store in memory that gives each file in ten pieces."""

    layout: StateLayout
    files: dict[str, bytes] = field(default_factory=dict)
    told: list[SyncProgress] = field(default_factory=list)
    told_before: dict[str, int] = field(default_factory=dict)
    """How much was told before each file of the store was opened."""

    @property
    def blobs(self) -> BlobStore:
        return BlobStore(self.layout)

    def get(self, path: str, max_bytes: int) -> bytes:
        raise NotImplementedError

    def poll(self, path: str, max_bytes: int, etag: str | None) -> Polled:
        raise NotImplementedError

    @contextmanager
    def stream(self, path: str, offset: int) -> Iterator[Stream]:
        self.told_before[path] = len(self.told)
        if path not in self.files:
            raise StoreFileMissingError(f"no {path}")
        content = self.files[path][offset:]
        size = -(-len(content) // PIECES)
        yield Stream(offset, (content[at : at + size] for at in range(0, len(content), size)))

    def close(self) -> None:
        pass

    def put(self, content: bytes, **described: object) -> File:
        """Put a file into the store."""
        file = File(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content), **described)  # type: ignore[arg-type]
        self.files[blob_path(file.sha256)] = content
        return file

    def fetch(self, file: File, *old: str) -> bytes:
        """Fetch a file, and return what is here then."""
        downloads = Downloads(self.blobs, self, Meter(Settings(), self.layout), self.told.append)
        downloads.fetch({file.kept_sha256: file}, {file.kept_sha256: old})
        return self.blobs.path(file.kept_sha256).read_bytes()

    def deploy_old(self) -> str:
        """Have the old file here, and its patch in the store."""
        old, new = (hashlib.sha256(content).hexdigest() for content in (OLD, NEW))
        self.files[patch_path(new, old)] = packing.make_patch(NEW, OLD, 3)
        self.blobs.place(old, len(OLD), [OLD])
        return old

    def steps(self, name: str) -> list[SyncProgress]:
        return [step for step in self.told if step.message == name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(progress, "_INTERVAL_S", 0.0)
    layout = StateLayout(tmp_path / "state")
    layout.create()
    return Site(layout)


class TestProgress:
    def test_each_piece_of_a_patch_is_told(self, site: Site) -> None:
        file, old = site.put(NEW), site.deploy_old()
        assert site.fetch(file, old) == NEW
        assert blob_path(file.sha256) not in site.told_before
        done = [step.done_bytes for step in site.steps("Downloading")]
        assert len(set(done)) == PIECES
        assert len(site.steps("Unpacking")) >= len(NEW) / 2**18
        assert site.told[-1].done_bytes == site.told[-1].total_bytes == done[-1] < 30_000

    def test_what_came_for_nothing_is_counted(self, site: Site) -> None:
        file, old = site.put(NEW), site.deploy_old()
        site.files[patch_path(file.sha256, old)] = os.urandom(10_000)
        assert site.fetch(file, old) == NEW
        assert site.told[-1].done_bytes == site.told[-1].total_bytes == len(NEW) + 10_000

    def test_hashing_what_is_here_of_a_file_is_told(self, site: Site) -> None:
        file = site.put(NEW)
        (site.layout.staging / f"{file.sha256}.part").write_bytes(NEW[:-10])
        assert site.fetch(file) == NEW
        assert site.told_before[blob_path(file.sha256)] == 3

    def test_each_piece_that_is_unpacked_is_told(self, site: Site) -> None:
        content = bytes(5 * 2**20)
        described = {"content_sha256": hashlib.sha256(content).hexdigest(), "content_size_bytes": len(content)}
        file = site.put(packing.library().compress(content), compression="zstd", **described)
        assert site.fetch(file) == content
        assert len(site.steps("Unpacking")) >= 20

    def test_each_piece_that_is_checked_is_told(self, site: Site) -> None:
        file = site.put(NEW)
        site.fetch(file)
        _drop_damaged([file.sha256], site.blobs, progress.Progress(site.told.append))
        assert len(site.steps("Checking the files")) == 3
        assert site.blobs.has(file.sha256)

    def test_a_file_is_not_damaged_because_nobody_listens_any_more(self, site: Site) -> None:
        def hang_up(step: SyncProgress) -> None:
            raise BrokenPipeError

        file = site.put(NEW)
        site.fetch(file)
        with pytest.raises(BrokenPipeError):
            _drop_damaged([file.sha256], site.blobs, progress.Progress(hang_up))
        assert site.blobs.has(file.sha256)


class TestPatchesOfNoUse:
    def test_an_old_file_that_the_disk_does_not_give_back_costs_the_whole(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, old = site.put(NEW), site.deploy_old()
        read = Path.read_bytes

        def read_or_fail(path: Path) -> bytes:
            if path.name == old:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", read_or_fail)
        assert site.fetch(file, old) == NEW
        assert blob_path(file.sha256) in site.told_before

    @pytest.mark.parametrize("at_piece", [0, 3])
    def test_a_lack_of_memory_costs_the_whole(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, at_piece: int
    ) -> None:
        def exhausting(patch: bytes, old: bytes, size_bytes: int) -> Iterator[bytes]:
            yield from [b"x"] * at_piece
            raise MemoryError

        file, old = site.put(NEW), site.deploy_old()
        monkeypatch.setattr(packing, "patched", exhausting)
        assert site.fetch(file, old) == NEW
        assert list(site.layout.staging.iterdir()) == []

    def test_a_new_file_that_cannot_be_written_is_told(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        file, old = site.put(NEW), site.deploy_old()
        monkeypatch.setattr(blobs, "sync_file", full)
        with pytest.raises(StorageError, match="free some space on that disk"):
            site.fetch(file, old)
        assert blob_path(file.sha256) not in site.told_before
