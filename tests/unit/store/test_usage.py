"""What was used of the byte budget, over restarts."""

from pathlib import Path

import pytest

from edge_agent.documents.errors import StorageError
from edge_agent.store.usage import UsageFile


def test_what_is_noted_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    assert UsageFile(path).used_bytes("2026-11") == 0
    UsageFile(path).put("2026-11", 500)
    again = UsageFile(path)
    assert (again.used_bytes("2026-11"), again.used_bytes("2026-12")) == (500, 0)


def test_what_stays_the_same_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    usage = UsageFile(path)
    usage.put("2026-11", 500)
    written = path.stat().st_ino
    usage.put("2026-11", 500)
    assert path.stat().st_ino == written
    usage.put("2026-11", 501)
    assert path.stat().st_ino != written


@pytest.mark.parametrize("content", [b"", b"{", b'{"used_bytes": 3}', b"\xff\xfe"])
def test_a_damaged_file_begins_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "usage.json").write_bytes(content)
    assert UsageFile(tmp_path / "usage.json").used_bytes("2026-11") == 0


def test_a_disk_that_cannot_be_written_is_an_error_only_where_it_matters(tmp_path: Path) -> None:
    usage = UsageFile(tmp_path / "nowhere" / "usage.json")
    usage.put_if_possible("2026-11", 500)
    with pytest.raises(StorageError):
        usage.put("2026-11", 501)
