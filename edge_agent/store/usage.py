"""What was fetched in each period of the byte budget: `usage.json`. Written by the sync child alone."""

from pathlib import Path

import msgspec

from edge_agent.documents.errors import StorageError
from edge_agent.policy.budget import with_used
from edge_agent.store.files import write_atomically


class _Usage(msgspec.Struct, frozen=True):
    used_bytes: dict[str, int]
    """By period, the one that was written last at the end."""


class UsageFile:
    """Remembers over restarts and power cuts how many bytes were used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._used = _read(path)

    def used_bytes(self, period: str) -> int:
        """Return what was used in a period, by its name."""
        return self._used.get(period, 0)

    def put(self, period: str, used_bytes: int) -> None:
        """Note what was used in a period, durably; raises StorageError."""
        if self._used.get(period) == used_bytes:
            return
        self._used = with_used(self._used, period, used_bytes)
        write_atomically(self._path, msgspec.json.encode(_Usage(self._used)))

    def put_if_possible(self, period: str, used_bytes: int) -> None:
        """The same, but for counts that a full disk must not turn into an error."""
        try:
            self.put(period, used_bytes)
        except StorageError:
            return


def _read(path: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Usage).used_bytes
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}  # it begins again at nought, as on a new device
