import hashlib
import random
from pathlib import Path

import pytest

from converters import compress
from converters.package import plain_blob
from edge_agent.documents.errors import ArtifactError
from edge_agent.documents.manifest import File, blob_path
from edge_agent.store import packing

SPARSE = bytes(200_000) + random.Random(1).randbytes(50_000)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_file_that_shrinks_travels_compressed(tmp_path: Path) -> None:
    path = written(tmp_path / "model", SPARSE)
    file = compress.compressed(path, tmp_path / "packed")
    assert file is not None
    blob = (tmp_path / "packed").read_bytes()
    assert (file.sha256, file.size_bytes) == (hashlib.sha256(blob).hexdigest(), len(blob))
    assert (file.kept_sha256, file.kept_size_bytes) == (hashlib.sha256(SPARSE).hexdigest(), len(SPARSE))
    assert file.size_bytes < 0.9 * len(SPARSE)
    packing.check_packed(tmp_path / "packed", file)


@pytest.mark.parametrize("kept", [46_000, 50_000])
def test_the_limit_is_a_tenth(tmp_path: Path, kept: int) -> None:
    # Random bytes do not shrink and zeros nearly vanish: of 50,000 bytes `kept` are left.
    path = written(tmp_path / "model", random.Random(1).randbytes(kept) + bytes(50_000 - kept))
    assert compress.compressed(path, tmp_path / "packed") is None
    assert not (tmp_path / "packed").exists()
    path = written(tmp_path / "model", random.Random(1).randbytes(44_000) + bytes(6_000))
    assert compress.compressed(path, tmp_path / "packed") is not None


def test_the_frame_names_its_length_and_is_the_same_each_time(tmp_path: Path) -> None:
    path = written(tmp_path / "model", SPARSE)
    first, second = (compress.compressed(path, tmp_path / name) for name in ("a", "b"))
    assert first == second
    info = packing.library().get_frame_info((tmp_path / "a").read_bytes())
    assert info.decompressed_size == len(SPARSE)


def test_large_files_keep_to_the_window_that_devices_allow(tmp_path: Path) -> None:
    path = written(tmp_path / "model", bytes(2**24 + 5))
    file, blob = compress.pack(path, tmp_path)
    assert file.compression == "zstd"
    packing.check_packed(blob, file)


def test_what_does_not_shrink_is_packed_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "model", random.Random(1).randbytes(5000))
    assert compress.pack(path, tmp_path) == (compress.plain(path), path)


def packaged(tmp_path: Path, content: bytes) -> File:
    file, path = compress.pack(written(tmp_path / "model", content), tmp_path)
    blob = tmp_path / "package" / blob_path(file.sha256)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(path.read_bytes())
    return file


@pytest.mark.parametrize("content", [SPARSE, random.Random(1).randbytes(500)])
def test_a_package_gives_the_plain_file_back(tmp_path: Path, content: bytes) -> None:
    file = packaged(tmp_path, content)
    assert plain_blob(tmp_path / "package", file, tmp_path / "plain").read_bytes() == content


def test_a_blob_that_is_not_what_was_described_is_refused(tmp_path: Path) -> None:
    file = packaged(tmp_path, SPARSE).model_copy(update={"content_sha256": "0" * 64})
    with pytest.raises(ArtifactError, match="instead of 0000"):
        plain_blob(tmp_path / "package", file, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
