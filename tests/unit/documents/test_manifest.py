from typing import Any

import pytest
from pydantic import ValidationError

from edge_agent.documents.manifest import File

BLOB: dict[str, Any] = {"sha256": "a" * 64, "size_bytes": 10}
CONTENT: dict[str, Any] = {"content_sha256": "b" * 64, "content_size_bytes": 99}


def test_a_plain_file_is_kept_as_it_travels() -> None:
    file = File(**BLOB)
    assert (file.compression, file.kept_sha256, file.kept_size_bytes) == ("none", "a" * 64, 10)


def test_a_compressed_file_is_kept_by_its_content() -> None:
    file = File(**BLOB, compression="zstd", **CONTENT)
    assert (file.kept_sha256, file.kept_size_bytes) == ("b" * 64, 99)


@pytest.mark.parametrize("missing", CONTENT)
def test_a_compressed_file_describes_its_content(missing: str) -> None:
    described = {name: value for name, value in CONTENT.items() if name != missing}
    with pytest.raises(ValidationError, match="a zstd file needs content_sha256 and content_size_bytes"):
        File(**BLOB, compression="zstd", **described)


@pytest.mark.parametrize("stray", CONTENT)
def test_a_plain_file_describes_nothing_else(stray: str) -> None:
    with pytest.raises(ValidationError, match="are for compressed files"):
        File(**BLOB, **{stray: CONTENT[stray]})


def test_a_compression_of_the_future_is_left_to_the_device() -> None:
    assert File(**BLOB, compression="brotli").compression == "brotli"
