"""A store in a bucket, or whatever else fsspec reaches by URL. The one module that touches fsspec."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import fsspec
from fsspec.callbacks import Callback

from edge_agent.documents.errors import EdgeAgentError, OperatorError, StorageError
from edge_fleet.stores.base import MissingFileError, OnBytes, StoredFile, StoreFiles
from edge_fleet.stores.lease import Lease

_MODIFIED: Final = ("LastModified", "last_modified", "updated", "mtime", "created")
"""How the various file systems call the time of a file's last change."""


class ObjectFiles(StoreFiles):
    """The files of a store behind a URL. Places like S3 put an object whole or not at all, and durably."""

    def __init__(self, url: str) -> None:
        self.location = url
        with _mapped(f"The store {url} cannot be opened"):
            try:
                # What another publisher has just written must be seen: no caches of listings, nor of instances.
                self._fs, self._root = fsspec.core.url_to_fs(
                    url.rstrip("/"), use_listings_cache=False, skip_instance_cache=not url.startswith("memory:")
                )
            except ImportError as error:
                raise OperatorError(_missing(url, error)) from error
        self._lease = Lease(self)

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        with self._reading(name):
            content = self._fs.cat_file(self._path(name))
        return bytes(content)

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file to read it in pieces."""
        with self._reading(name), self._fs.open(self._path(name), "rb") as file:
            yield file

    def exists(self, name: str) -> bool:
        """Say whether a file is there."""
        # fsspec's own `exists` says no where nobody answers.
        info = self._info(name)
        return info is not None and info["type"] == "file"

    def holds(self, name: str, sha256: str, size_bytes: int) -> bool:
        """Compare the length alone: an upload is whole or absent, and reading it would be a download."""
        info = self._info(name)
        return info is not None and info["size"] == size_bytes

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place of what is there."""
        with _mapped(f"{self.location}/{name} cannot be written"):
            self._fs.pipe_file(self._path(name), content)

    def upload(self, name: str, source: Path, on_bytes: OnBytes) -> None:
        """Put a local file in place of what is there."""
        with _mapped(f"{self.location}/{name} cannot be written"):
            self._fs.put_file(str(source), self._path(name), callback=_Pieces(on_bytes))

    def list(self, prefix: str) -> Iterator[StoredFile]:
        """Yield the files under a folder."""
        with _mapped(f"The store {self.location} cannot be listed"):
            self._fs.invalidate_cache()
            found: Mapping[str, Mapping[str, Any]] = self._fs.find(self._path(prefix.rstrip("/")), detail=True)
        start = len(self._root.rstrip("/")) + 1
        for path, info in sorted(found.items()):
            yield StoredFile(path[start:], int(info["size"] or 0), _modified(info))

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        with _mapped(f"{self.location}/{name} cannot be removed"):
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store by a lease, which ends by itself when its holder is gone."""
        with self._lease.held():
            yield

    def check_lock(self) -> None:
        """Raise StorageError if the lease ran out."""
        self._lease.check()

    def _info(self, name: str) -> Mapping[str, Any] | None:
        with _mapped(f"The store {self.location} cannot be read"):
            try:
                info: Mapping[str, Any] = self._fs.info(self._path(name))
            except FileNotFoundError:
                return None
        return info

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        with _mapped(f"The store's {self.location}/{name} cannot be read"):
            try:
                yield
            except FileNotFoundError as error:
                message = f"The store lacks {self.location}/{name}: restore it from a backup."
                raise MissingFileError(message) from error


class _Pieces(Callback):  # type: ignore[misc] # fsspec has no types
    """Tells of each uploaded piece."""

    def __init__(self, on_bytes: OnBytes) -> None:
        super().__init__()
        self._on_bytes = on_bytes

    def relative_update(self, inc: int = 1) -> None:
        """Take note of `inc` more bytes."""
        self._on_bytes(inc)


@contextmanager
def _mapped(failure: str) -> Iterator[None]:
    """Turn whatever a file system of fsspec raises into a StorageError: each has exceptions of its own."""
    try:
        yield
    except EdgeAgentError:
        raise
    except PermissionError as error:
        raise StorageError(f"{failure} ({_line(error)}): give this user the right to it.") from error
    except Exception as error:
        raise StorageError(f"{failure} ({_line(error)}): check address, credentials and network.") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _missing(url: str, error: ImportError) -> str:
    if url.startswith("s3:"):
        return f"The store {url} needs s3fs; install it with: pip install 'edge-inference-agent[fleet-s3]'."
    return f"The store {url} cannot be opened: {_line(error)}."


def _modified(info: Mapping[str, Any]) -> datetime:
    """Return when a file was last changed; now, if the place does not tell, so that it counts as young."""
    value = next((info[key] for key in _MODIFIED if info.get(key)), None)
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime.now(UTC)
