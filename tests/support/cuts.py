"""Power cuts for the fleet tools: after so many writes into a store's folder their process is gone."""

from pathlib import Path
from typing import Any

import pytest

from edge_agent.store import files


class PowerCutError(BaseException):
    """Ends the fleet tool as a kill would: no handler runs."""


def cut_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Let a number of files through that the fleet tools write into a store, then cut the power."""
    left = [writes]

    def burn() -> None:
        if left[0] == 0:
            raise PowerCutError
        left[0] -= 1

    def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
        burn()
        files.write_atomically(path, content, mode)

    def replacing(path: Path, mode: int = 0o644) -> Any:
        burn()
        return files.replacing(path, mode)

    monkeypatch.setattr("edge_fleet.stores.folder.write_atomically", write_atomically)
    monkeypatch.setattr("edge_fleet.stores.folder.replacing", replacing)
