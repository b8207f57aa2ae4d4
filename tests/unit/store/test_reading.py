"""Databases that another process writes, on a disk that gives nothing back."""

import errno
from pathlib import Path

import pytest

from edge_agent.documents.errors import StorageError
from edge_agent.store.events_db import read_newest
from edge_agent.store.integrity import damage
from edge_agent.store.outcomes_db import read_sums


def test_a_disk_that_fails_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, **_: object) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "exists", fails)
    with pytest.raises(StorageError, match=r"The outcomes in .* cannot be read \(.*Input/output error"):
        read_sums(tmp_path / "outcomes.db")
    with pytest.raises(StorageError, match=r"The events in .* cannot be read \(.*Input/output error"):
        read_newest(tmp_path / "events.db", 1)
    assert "Input/output error" in str(damage(tmp_path / "events.db"))
