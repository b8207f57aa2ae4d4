"""A store in a folder: every file is fsynced and renamed into its place."""

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from edge_agent.documents.errors import StorageError
from edge_agent.store.files import mapping_os_errors, replacing, sync_folder, write_atomically
from edge_fleet.stores.base import MissingFileError, OnBytes, StoredFile, StoreFiles

_PIECE_BYTES = 2**20
_LOCK = ".lock"


class FolderFiles(StoreFiles):
    """The files of a store in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder: Path = folder
        self.location = str(folder)

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        with self.open(name) as file:
            return file.read()

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file to read it in pieces."""
        path = self.folder / name
        try:
            with path.open("rb") as file:
                yield file
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingFileError(f"The store lacks {path}: restore it from a backup.") from error
        except OSError as error:
            raise StorageError(f"The store's {path} cannot be read: {error.strerror}.") from error

    def exists(self, name: str) -> bool:
        """Say whether a file is there."""
        return (self.folder / name).is_file()

    def holds(self, name: str, sha256: str, size_bytes: int) -> bool:
        """Read the whole file: what a power cut or a bad disk damaged is uploaded again."""
        try:
            with (self.folder / name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            return False

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place of what is there."""
        write_atomically(self._path(name), content)

    def upload(self, name: str, source: Path, on_bytes: OnBytes) -> None:
        """Put a local file in place of what is there."""
        with source.open("rb") as original, replacing(self._path(name)) as copy:
            while piece := original.read(_PIECE_BYTES):
                copy.write(piece)
                on_bytes(len(piece))

    def list(self, prefix: str) -> Iterator[StoredFile]:
        """Yield the files under a folder, but for the temporary ones of writers."""
        for path in sorted((self.folder / prefix).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                status = path.stat()
                modified = datetime.fromtimestamp(status.st_mtime, UTC)
                yield StoredFile(str(path.relative_to(self.folder)), status.st_size, modified)

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        path = self.folder / name
        with mapping_os_errors(path):
            path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store by a lock on a file, which the system drops when its holder ends."""
        with mapping_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / _LOCK).open("a")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def check_lock(self) -> None:
        """Do nothing: nobody takes this lock away."""

    def _path(self, name: str) -> Path:
        """Return where a file goes, in a folder that outlives a power cut."""
        path = self.folder / name
        with mapping_os_errors(path):
            missing = [folder for folder in path.parents if not folder.is_dir()]
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                sync_folder(folder.parent)
        return path
