import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.errors import ArtifactError, StorageError, StoreUnreachableError
from edge_agent.store.blobs import BlobStore, Stream
from edge_agent.store.layout import StateLayout

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Source:
    """A store's file, cut into chunks; remembers the offsets it was opened at."""

    def __init__(self, content: bytes = CONTENT, resumes: bool = True, ends_after: int | None = None) -> None:
        self.content = content
        self.resumes = resumes
        self.ends_after = ends_after
        self.offsets: list[int] = []

    @contextmanager
    def open(self, offset: int) -> Iterator[Stream]:
        self.offsets.append(offset)
        start = offset if self.resumes else 0
        data = self.content[start : self.ends_after]
        yield Stream(start, (data[i : i + 1000] for i in range(0, len(data), 1000)))


@pytest.fixture
def layout(tmp_path: Path) -> StateLayout:
    layout = StateLayout(tmp_path / "state")
    layout.create()
    return layout


@pytest.fixture
def blobs(layout: StateLayout) -> BlobStore:
    return BlobStore(layout)


def receive(blobs: BlobStore, source: Source, size_bytes: int = len(CONTENT)) -> Path:
    return blobs.receive(DIGEST, size_bytes, source.open)


def staged(layout: StateLayout) -> list[bytes]:
    return [path.read_bytes() for path in layout.staging.iterdir()]


def test_a_file_comes_into_place_when_it_is_whole(blobs: BlobStore, layout: StateLayout) -> None:
    pieces: list[int] = []
    assert not blobs.has(DIGEST)
    path = blobs.receive(DIGEST, len(CONTENT), Source().open, pieces.append)
    assert path == blobs.path(DIGEST) == layout.blob(DIGEST)
    assert path.read_bytes() == CONTENT
    assert sum(pieces) == len(CONTENT)
    assert blobs.has(DIGEST)
    assert blobs.verify(DIGEST)
    assert staged(layout) == []


def test_a_file_that_is_here_is_not_fetched_again(blobs: BlobStore) -> None:
    receive(blobs, Source())
    again = Source()
    receive(blobs, again)
    assert again.offsets == []


@given(st.integers(1, len(CONTENT) - 1))
def test_a_truncated_stream_is_continued(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    layout = StateLayout(tmp_path_factory.mktemp("state"))
    layout.create()
    blobs = BlobStore(layout)
    with pytest.raises(StoreUnreachableError, match=f"ended after {length} of {len(CONTENT)} bytes"):
        receive(blobs, Source(ends_after=length))
    assert blobs.missing_bytes({DIGEST: len(CONTENT)}) == len(CONTENT) - length
    rest = Source()
    assert receive(blobs, rest).read_bytes() == CONTENT
    assert rest.offsets == [length]


def test_a_store_that_cannot_resume_starts_over(blobs: BlobStore) -> None:
    with pytest.raises(StoreUnreachableError):
        receive(blobs, Source(ends_after=5000))
    source = Source(resumes=False)
    assert receive(blobs, source).read_bytes() == CONTENT
    assert source.offsets == [5000]


def test_a_part_that_a_power_cut_spoiled_is_fetched_again_at_once(
    blobs: BlobStore, layout: StateLayout
) -> None:
    (layout.staging / f"{DIGEST}.part").write_bytes(b"\0" * 5000)
    source = Source()
    assert receive(blobs, source).read_bytes() == CONTENT
    assert source.offsets == [5000, 0]


def test_a_part_that_is_whole_is_not_fetched_at_all(blobs: BlobStore, layout: StateLayout) -> None:
    (layout.staging / f"{DIGEST}.part").write_bytes(CONTENT)
    source = Source()
    assert receive(blobs, source).read_bytes() == CONTENT
    assert source.offsets == []


def test_a_part_that_is_too_long_is_thrown_away(blobs: BlobStore, layout: StateLayout) -> None:
    (layout.staging / f"{DIGEST}.part").write_bytes(CONTENT + b"x")
    source = Source()
    assert receive(blobs, source).read_bytes() == CONTENT
    assert source.offsets == [0]


def test_another_content_is_refused_and_not_kept(blobs: BlobStore, layout: StateLayout) -> None:
    other = os.urandom(len(CONTENT))
    with pytest.raises(ArtifactError, match="not the file that was signed"):
        receive(blobs, Source(other))
    assert not blobs.has(DIGEST)
    assert staged(layout) == []


def test_never_more_than_the_signed_length_is_written(blobs: BlobStore, layout: StateLayout) -> None:
    with pytest.raises(ArtifactError, match=r"longer than the 2500 bytes"):
        receive(blobs, Source(), size_bytes=2500)
    assert staged(layout) == []


def test_a_full_disk_is_told_before_anything_is_fetched(blobs: BlobStore) -> None:
    source = Source()
    with pytest.raises(StorageError, match=r"too full for .* MiB of downloads: free .* MiB more"):
        blobs.receive(DIGEST, 2**60, source.open)
    assert source.offsets == []


def test_a_damaged_file_is_noticed(blobs: BlobStore) -> None:
    receive(blobs, Source()).write_bytes(CONTENT[:-1] + b"!")
    assert not blobs.verify(DIGEST)
    assert not blobs.verify("f" * 64)


def test_collecting_removes_what_nobody_keeps(blobs: BlobStore) -> None:
    receive(blobs, Source())
    small = b"small"
    kept = hashlib.sha256(small).hexdigest()
    blobs.receive(kept, len(small), Source(small).open)
    assert blobs.collect({kept}) == len(CONTENT)
    assert (blobs.has(DIGEST), blobs.has(kept)) == (False, True)
    assert blobs.collect({kept}) == 0


def test_parts_of_other_files_are_discarded(blobs: BlobStore, layout: StateLayout) -> None:
    for name in ("a", "b"):
        (layout.staging / f"{name}.part").write_bytes(b"x")
    blobs.discard_parts({"b"})
    assert [path.name for path in layout.staging.iterdir()] == ["b.part"]
