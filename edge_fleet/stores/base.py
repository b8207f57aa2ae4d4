"""What the fleet tools ask of the place where a store lies.

Names are relative to the store's root and use `/`: `metadata/timestamp.json`. A file appears whole or not at
all, and once written it outlives what happens to the writer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from edge_agent.documents.errors import StorageError

OnBytes = Callable[[int], None]
"""Is told the length of each piece that was moved."""


class MissingFileError(StorageError):
    """A file that should be in the store is not there."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as a listing shows it."""

    name: str
    size_bytes: int
    modified: datetime
    """In UTC, by the clock of the place."""


class StoreFiles(ABC):
    """The files of one store. Every failure is a StorageError that names the file."""

    location: str
    """The store as its operator named it."""
    folder: Path | None = None
    """The store's folder, None if it lies elsewhere."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return a file's content; raises MissingFileError if there is none."""

    @abstractmethod
    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file to read it in pieces; raises MissingFileError if there is none."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Say whether a file is there."""

    @abstractmethod
    def holds(self, name: str, sha256: str, size_bytes: int) -> bool:
        """Say whether a file is there and need not be uploaded; as thorough as is cheap in this place."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Put a file in place of what is there."""

    @abstractmethod
    def upload(self, name: str, source: Path, on_bytes: OnBytes) -> None:
        """Put a local file in place of what is there."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[StoredFile]:
        """Yield the files under a folder, `metadata/` for example; none if there is no such folder."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Hold the store against other writers, waiting for the one who holds it."""

    @abstractmethod
    def check_lock(self) -> None:
        """Raise StorageError if the lock was lost meanwhile; called before what others see is changed."""

    def __str__(self) -> str:
        return self.location
