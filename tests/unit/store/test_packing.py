import contextlib
import hashlib
import io
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.errors import ArtifactError, OperatorError
from edge_agent.documents.manifest import File
from edge_agent.store import packing
from edge_agent.store.blobs import BlobStore
from edge_agent.store.layout import StateLayout

zstd = packing.library()

CONTENT = bytes(range(256)) * 4000


def packed(content: bytes = CONTENT, **options: int) -> bytes:
    named = {zstd.CompressionParameter[name]: value for name, value in options.items()}
    return bytes(zstd.compress(content, options=named or None))


def a_file(blob: bytes, content: bytes = CONTENT) -> File:
    return File(
        sha256=hashlib.sha256(blob).hexdigest(),
        size_bytes=len(blob),
        compression="zstd",
        content_sha256=hashlib.sha256(content).hexdigest(),
        content_size_bytes=len(content),
    )


def unpacked(blob: bytes, file: File) -> bytes:
    return b"".join(packing.unpacked(io.BytesIO(blob), file))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    layout = StateLayout(tmp_path / "state")
    layout.create()
    return BlobStore(layout)


@given(st.binary(min_size=1, max_size=5000), st.integers(1, 300))
def test_what_was_packed_comes_out(unit: bytes, times: int) -> None:
    content = unit * times
    blob = packed(content)
    assert unpacked(blob, a_file(blob, content)) == content


@given(st.data())
def test_a_cut_frame_is_refused_wherever_it_is_cut(data: st.DataObject) -> None:
    blob = packed(CONTENT, checksum_flag=1)
    cut = blob[: data.draw(st.integers(0, len(blob) - 1))]
    with pytest.raises(ArtifactError, match=r"ends in the middle of its frame|bytes less than were signed"):
        unpacked(cut, a_file(blob))


@given(st.binary(min_size=1, max_size=50))
def test_what_follows_the_frame_is_refused(garbage: bytes) -> None:
    blob = packed() + garbage
    with pytest.raises(ArtifactError, match="goes on after the end of its frame"):
        unpacked(blob, a_file(blob))


def test_what_follows_the_frame_is_refused_when_it_is_a_frame() -> None:
    blob = packed() + packed(b"")
    with pytest.raises(ArtifactError, match="goes on after the end of its frame"):
        unpacked(blob, a_file(blob))


@given(st.binary(max_size=2000))
def test_any_bytes_are_refused_in_a_sentence(blob: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"The compressed file [0-9a-f]{64} .*: build the version again\."):
        unpacked(blob, a_file(blob + b"x", b"other"))


def test_a_bomb_is_stopped_one_byte_after_what_was_signed() -> None:
    bomb = packed(bytes(2**30))
    assert len(bomb) < 100_000
    pieces = packing.unpacked(io.BytesIO(bomb), a_file(bomb, bytes(10**6)))
    got = 0
    with pytest.raises(ArtifactError, match="unpacks to more than the 1000000 bytes that were signed"):
        for piece in pieces:
            got += len(piece)
    assert got <= 10**6


def test_a_shorter_content_is_refused() -> None:
    blob = packed(CONTENT[:-1])
    with pytest.raises(ArtifactError, match="unpacks to 1 bytes less"):
        unpacked(blob, a_file(blob))


def test_a_frame_that_would_take_much_memory_is_refused() -> None:
    # A frame whose length is not known beforehand asks for the whole window.
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    blob = compressor.compress(CONTENT) + compressor.flush()
    with pytest.raises(ArtifactError, match=r"is damaged \(.*memory"):
        unpacked(blob, a_file(blob))


def test_another_content_is_not_placed(blobs: BlobStore, tmp_path: Path) -> None:
    blob = packed(CONTENT[::-1])
    file = a_file(blob)
    with pytest.raises(ArtifactError, match=f"instead of {file.kept_sha256}, which was signed"):
        blobs.place(file.kept_sha256, file.kept_size_bytes, packing.unpacked(io.BytesIO(blob), file))
    assert not blobs.has(file.kept_sha256)
    assert not list((tmp_path / "state/staging").iterdir())


def test_the_content_is_placed_under_its_own_digest(blobs: BlobStore, tmp_path: Path) -> None:
    blob = packed()
    file = a_file(blob)
    path = blobs.place(file.kept_sha256, file.kept_size_bytes, packing.unpacked(io.BytesIO(blob), file))
    assert path == blobs.path(file.kept_sha256)
    assert path.read_bytes() == CONTENT
    assert not list((tmp_path / "state/staging").iterdir())


def test_what_was_left_half_unpacked_is_discarded(blobs: BlobStore, tmp_path: Path) -> None:
    left = tmp_path / "state/staging" / f"{'0' * 64}.unpacked"
    left.write_bytes(b"half")
    blobs.discard_parts({"0" * 64})
    assert not left.exists()


def test_a_python_without_the_library_reads_plain_files_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise OperatorError("not here")

    assert packing.readable() == {"none", "zstd"}
    monkeypatch.setattr(packing, "library", missing)
    assert packing.readable() == {"none"}


class TestPatches:
    """A new file from an old one and what differs."""

    def patched(self, patch: bytes, old: bytes, size_bytes: int) -> bytes:
        return b"".join(packing.patched(patch, old, size_bytes))

    @given(
        st.binary(min_size=8, max_size=3000),
        st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=50)), max_size=5),
    )
    def test_a_patch_makes_the_new_file(self, old: bytes, edits: list[tuple[int, bytes]]) -> None:
        new = old
        for at, inserted in edits:
            new = new[:at] + inserted + new[at + len(inserted) // 2 :]
        assert self.patched(packing.make_patch(new, old, 3), old, len(new)) == new

    def test_what_is_the_same_costs_nothing(self) -> None:
        old = random.Random(1).randbytes(20_000_000)  # more than the window of other files
        new = old[:10_000_000] + b"something else" + old[10_000_000:]
        patch = packing.make_patch(new, old, 3)
        assert len(patch) < 50_000
        assert self.patched(patch, old, len(new)) == new

    def test_another_old_file_makes_another_new_one_or_none(self) -> None:
        old, other = random.Random(1).randbytes(100_000), random.Random(2).randbytes(100_000)
        new = old[:50_000] + b"!" + old[50_000:]
        patch = packing.make_patch(new, old, 3)
        with contextlib.suppress(ArtifactError):
            assert self.patched(patch, other, len(new)) != new
        with pytest.raises(ArtifactError, match="too short"):
            self.patched(patch, b"old", len(new))

    @pytest.mark.parametrize("size_bytes", [0, 100, len(CONTENT) - 1, len(CONTENT) + 1])
    def test_another_length_is_refused_at_once(self, size_bytes: int) -> None:
        patch = packing.make_patch(CONTENT, b"an old file", 3)
        taken = 0
        with pytest.raises(ArtifactError, match=r"another length|is damaged"):
            for piece in packing.patched(patch, b"an old file", size_bytes):
                taken += len(piece)
        assert taken <= size_bytes + 1

    @given(st.binary(max_size=200))
    def test_garbage_is_refused(self, patch: bytes) -> None:
        with pytest.raises(ArtifactError):
            self.patched(patch, CONTENT, len(CONTENT))

    def test_a_window_beyond_both_files_is_refused(self) -> None:
        patch = packed(CONTENT * 8, window_log=26)
        with pytest.raises(ArtifactError, match="it is damaged"):
            self.patched(patch, b"an old file", 100_000)
