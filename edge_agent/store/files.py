"""Files that survive a power cut: temporary name in the same folder, fsync, rename, fsync of the folder."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edge_agent.documents.errors import StorageError


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file's content so that a reader or a power cut sees the old or the new, never a mix."""
    with replacing(path, mode) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path`, durably, when the block ends without an error."""
    with mapping_os_errors(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename or unlink in it lasts."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def mapping_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError on the way to `path` into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}; {_remedy(error)}.") from error


def _remedy(error: OSError) -> str:
    match error.errno:
        case 28 | 122:  # ENOSPC, EDQUOT
            return "free some space on that disk"
        case 13 | 1:  # EACCES, EPERM
            return "run as the user that owns the folder"
        case 30:  # EROFS
            return "mount that file system writable"
        case _:
            return "check that disk and folder"
