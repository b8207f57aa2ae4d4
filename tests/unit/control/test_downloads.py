"""Downloads from a store in memory, piece by piece: a sync that is slow must never look stuck."""

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_agent.control import progress
from edge_agent.control.downloads import Downloads
from edge_agent.control.fetch import Polled, StoreFileMissingError
from edge_agent.control.metering import Clocks, Meter
from edge_agent.control.pull import _drop_damaged
from edge_agent.documents.errors import DownloadPausedError, StorageError, StoreUnreachableError
from edge_agent.documents.ipc import SyncProgress
from edge_agent.documents.manifest import File, blob_path, patch_path
from edge_agent.documents.settings import Settings, StoreSettings
from edge_agent.store import blobs, packing
from edge_agent.store.blobs import BlobStore, Stream
from edge_agent.store.layout import StateLayout

PIECES = 10
DAY_S = 86_400.0
NOON_S = 1_700_000_000.0 // DAY_S * DAY_S + DAY_S / 2
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
    asked: list[tuple[str, int]] = field(default_factory=list)
    """Path and offset of each request."""
    says_sizes: bool = True
    resumes: bool = True
    breaks_after: int | None = None
    """Bytes of a patch after which the link breaks."""
    limits: Settings = field(default_factory=Settings)
    now_s: float = NOON_S

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
        self.asked.append((path, offset))
        if path not in self.files:
            raise StoreFileMissingError(f"no {path}")
        start, whole = offset if self.resumes else 0, self.files[path]
        yield Stream(start, self.chunks(path, whole[start:]), len(whole) if self.says_sizes else None)

    def chunks(self, path: str, content: bytes) -> Iterator[bytes]:
        size = max(1, -(-len(self.files[path]) // PIECES))
        for at in range(0, len(content), size):
            if path.startswith("patches/") and self.breaks_after is not None and at >= self.breaks_after:
                raise StoreUnreachableError("the link broke")
            self.meter.count(size)
            yield content[at : at + size]

    def close(self) -> None:
        pass

    def put(self, content: bytes, **described: object) -> File:
        """Put a file into the store."""
        file = File(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content), **described)  # type: ignore[arg-type]
        self.files[blob_path(file.sha256)] = content
        return file

    def fetch(self, file: File, *old: str) -> bytes:
        """Fetch a file, and return what is here then."""
        self.meter = Meter(self.limits, self.layout, clocks=Clocks(unix_s=lambda: self.now_s))
        downloads = Downloads(self.blobs, self, self.meter, self.told.append)
        try:
            downloads.fetch({file.kept_sha256: file}, {file.kept_sha256: old})
        finally:
            self.meter.close()
        return self.blobs.path(file.kept_sha256).read_bytes()

    def deploy_old(self) -> str:
        """Have the old file here, and its patch in the store."""
        old, new = (hashlib.sha256(content).hexdigest() for content in (OLD, NEW))
        self.files[patch_path(new, old)] = packing.make_patch(NEW, OLD, 3)
        self.blobs.place(old, len(OLD), [OLD])
        return old

    def limit(self, budget_bytes: int) -> None:
        """Allow so many bytes a day."""
        self.limits = Settings(store=StoreSettings(budget_bytes=budget_bytes, budget_period="day"))

    @property
    def staged(self) -> list[Path]:
        return list(self.layout.staging.iterdir())

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
        assert site.told_before[blob_path(file.sha256)] >= 3

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


class TestPauses:
    def test_a_patch_goes_on_in_the_next_period(self, site: Site) -> None:
        file, old = site.put(NEW), site.deploy_old()
        path = patch_path(file.sha256, old)
        size = -(-len(site.files[path]) // PIECES)
        site.limit(4 * size)
        for _ in range(2):
            with pytest.raises(DownloadPausedError):
                site.fetch(file, old)
            site.now_s += DAY_S
        assert site.fetch(file, old) == NEW
        assert site.asked == [(path, 0), (path, 4 * size), (path, 8 * size)]
        assert site.staged == []

    def test_a_patch_that_is_whole_at_the_end_of_the_budget_is_used(self, site: Site) -> None:
        file, old = site.put(NEW), site.deploy_old()
        site.limit(len(site.files[patch_path(file.sha256, old)]))
        assert site.fetch(file, old) == NEW

    @pytest.mark.parametrize("says_sizes", [True, False])
    def test_a_store_that_cannot_resume_starts_a_patch_over(self, site: Site, says_sizes: bool) -> None:
        site.resumes, site.says_sizes = False, says_sizes
        file, old = site.put(NEW), site.deploy_old()
        site.limit(len(site.files[patch_path(file.sha256, old)]) // 2)
        with pytest.raises(DownloadPausedError):
            site.fetch(file, old)
        site.limit(10**7)
        assert site.fetch(file, old) == NEW
        assert blob_path(file.sha256) not in site.told_before

    def test_what_is_continued_of_another_patch_costs_the_whole(self, site: Site) -> None:
        file, old = site.put(NEW), site.deploy_old()
        path = patch_path(file.sha256, old)
        good = site.files[path]
        site.files[path] = os.urandom(len(good))
        site.limit(len(good) // 2)
        with pytest.raises(DownloadPausedError):
            site.fetch(file, old)
        site.files[path] = good
        site.limit(10**7)
        assert site.fetch(file, old) == NEW
        assert site.asked[-1] == (blob_path(file.sha256), 0)
        assert site.staged == []

    def test_a_patch_of_a_version_that_is_not_wanted_any_more_goes(self, site: Site) -> None:
        file, old = site.put(NEW), site.deploy_old()
        site.limit(len(site.files[patch_path(file.sha256, old)]) // 2)
        with pytest.raises(DownloadPausedError):
            site.fetch(file, old)
        assert len(site.staged) == 1
        assert site.blobs.stale_parts(time.time() + 1) == {file.sha256: site.staged[0].stat().st_size}
        site.limit(10**7)
        site.fetch(site.put(b"another version"))
        assert site.staged == []

    def test_no_more_room_is_asked_for_than_the_file_takes(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []
        monkeypatch.setattr(BlobStore, "check_space", lambda _, size_bytes: asked.append(size_bytes))
        file, old = site.put(NEW), site.deploy_old()
        site.limit(len(site.files[patch_path(file.sha256, old)]) // 2)
        with pytest.raises(DownloadPausedError):
            site.fetch(file, old)
        (part,) = site.staged
        asked.clear()
        staged_bytes = part.stat().st_size
        site.limit(10**7)
        site.fetch(file, old)
        assert asked == [len(NEW) - staged_bytes, len(NEW)]


class TestBreaks:
    def test_a_patch_is_continued_as_long_as_something_comes(self, site: Site) -> None:
        file, old = site.put(NEW), site.deploy_old()
        path = patch_path(file.sha256, old)
        size = -(-len(site.files[path]) // PIECES)
        site.breaks_after = 4 * size
        missing = []
        for _ in range(2):
            with pytest.raises(StoreUnreachableError, match="the link broke"):
                site.fetch(file, old)
            missing.append(site.told[-1].total_bytes)
        assert missing == [len(NEW), len(NEW) - 4 * size]
        assert site.fetch(file, old) == NEW
        assert site.asked == [(path, 0), (path, 4 * size), (path, 8 * size)]
        last = site.told[-1]
        assert last.done_bytes == last.total_bytes == len(site.files[path]) - 8 * size
        assert site.staged == []

    def test_a_store_that_breaks_at_the_same_place_gives_the_whole(self, site: Site) -> None:
        site.resumes = False
        file, old = site.put(NEW), site.deploy_old()
        site.breaks_after = 5000
        with pytest.raises(StoreUnreachableError):
            site.fetch(file, old)
        assert site.fetch(file, old) == NEW
        assert site.asked[-1] == (blob_path(file.sha256), 0)
        assert site.told[-1].done_bytes == site.told[-1].total_bytes
        assert site.staged == []


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
        assert site.staged == []

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

    def test_a_sync_that_is_killed_over_a_patch_fetches_the_whole(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Killed(BaseException):
            pass

        def killed(patch: bytes, old: bytes, size_bytes: int) -> Iterator[bytes]:
            raise Killed

        file, old = site.put(NEW), site.deploy_old()
        monkeypatch.setattr(packing, "patched", killed)
        with pytest.raises(Killed):
            site.fetch(file, old)
        assert site.fetch(file, old) == NEW
        assert site.asked == [(patch_path(file.sha256, old), 0), (blob_path(file.sha256), 0)]
        assert site.staged == []

    @pytest.mark.parametrize("says_sizes", [True, False])
    @pytest.mark.parametrize("size_bytes", [10_000, len(NEW) // 2 + 1])
    def test_one_that_makes_nothing_is_not_fetched_again(
        self, site: Site, size_bytes: int, says_sizes: bool
    ) -> None:
        site.says_sizes = says_sizes
        file, old = site.put(NEW), site.deploy_old()
        site.files[patch_path(file.sha256, old)] = os.urandom(size_bytes)
        del site.files[blob_path(file.sha256)]
        with pytest.raises(StoreFileMissingError):
            site.fetch(file, old)
        assert {path.suffix: path.stat().st_size for path in site.staged} == {".part": 0, ".tried": 0}
        site.put(NEW)
        assert site.fetch(file, old) == NEW
        patches = [path for path, _ in site.asked if path.startswith("patches/")]
        assert len(patches) == 1

    def test_a_link_that_brings_nothing_of_one_goes_on_with_the_whole(self, site: Site) -> None:
        file, old = site.put(NEW), site.deploy_old()
        site.breaks_after = 0
        assert site.fetch(file, old) == NEW
        assert site.asked == [(patch_path(file.sha256, old), 0), (blob_path(file.sha256), 0)]
        assert site.staged == []
