"""Verified files by content: received into staging, resumable, moved into place only when whole and right."""

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from edge_agent.documents.errors import ArtifactError, StorageError, StoreUnreachableError
from edge_agent.store.files import mapping_os_errors, sync_file, sync_folder
from edge_agent.store.layout import StateLayout

_CHUNK_BYTES: Final = 2**20
_RESERVE_BYTES: Final = 4 * 2**20
"""Left free beside a download, so that the agent's own small files still fit."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A file's bytes from `offset` on, which may be less than was asked for where a store cannot resume."""

    offset: int
    chunks: Iterator[bytes]
    size_bytes: int | None = None
    """Length of the whole file, where the store says it."""


OpenStream = Callable[[int], AbstractContextManager[Stream]]
"""Opens a file at an offset in bytes."""


class BlobStore:
    """The files that plans refer to. One process receives at a time; any may read."""

    def __init__(self, layout: StateLayout) -> None:
        self._layout = layout

    def path(self, sha256: str) -> Path:
        """Return where the file with this digest lies, here or not."""
        return self._layout.blob(sha256)

    def has(self, sha256: str) -> bool:
        """Say whether the file is here; it was verified before it came into place."""
        return self.path(sha256).is_file()

    def verify(self, sha256: str, on_piece: Callable[[], None] = lambda: None) -> bool:
        """Read the file again and say whether it is here and still has its digest.

        `on_piece` is called for each piece that is read.
        """
        digest = hashlib.sha256()
        try:
            with self.path(sha256).open("rb") as file:
                while piece := file.read(_CHUNK_BYTES):
                    digest.update(piece)
                    on_piece()
        except BrokenPipeError:
            raise  # of whoever is told: that says nothing of the file
        except OSError:
            return False
        return digest.hexdigest() == sha256

    def remove(self, sha256: str) -> None:
        """Remove a damaged file, so that the next sync fetches it again; raises StorageError."""
        with mapping_os_errors(self.path(sha256)):
            self.path(sha256).unlink(missing_ok=True)

    def missing_bytes(self, files: dict[str, int]) -> int:
        """Return how many bytes of these files (length by digest) are still to be fetched."""
        return sum(
            size - self.staged_bytes(sha256, size) for sha256, size in files.items() if not self.has(sha256)
        )

    def staged_bytes(self, sha256: str, size_bytes: int) -> int:
        """Return how much of a file of `size_bytes` an earlier attempt has left."""
        try:
            staged = self._part(sha256).stat().st_size
        except FileNotFoundError:
            return 0
        return staged if staged <= size_bytes else 0

    def check_space(self, size_bytes: int) -> None:
        """Raise StorageError, naming how much is missing, unless this many more bytes fit on the disk."""
        with mapping_os_errors(self._layout.staging):
            disk = os.statvfs(self._layout.staging)
        short = size_bytes + _RESERVE_BYTES - disk.f_bavail * disk.f_frsize
        if size_bytes and short > 0:
            raise StorageError(
                f"The disk of {self._layout.base} is too full for {_mib(size_bytes)} of downloads: free "
                f"{_mib(short)} more."
            )

    def receive(
        self,
        sha256: str,
        size_bytes: int,
        open_stream: OpenStream,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> Path:
        """Fetch a file unless it is here, and return its path.

        What an earlier attempt left in staging is hashed and continued. Never more than `size_bytes` is
        written. `on_bytes` is told the length of each piece that arrives, and 0 for each that is hashed only.
        Raises ArtifactError for a wrong length or digest, StoreUnreachableError when the stream ends early
        (what came is kept), StorageError.
        """
        if not self.has(sha256):
            part = self.fetch(sha256, size_bytes, open_stream, on_bytes)
            with mapping_os_errors(self._layout.staging):
                self._move_into_place(part, sha256)
        return self.path(sha256)

    def fetch(
        self,
        sha256: str,
        size_bytes: int,
        open_stream: OpenStream,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> Path:
        """Fetch a file into staging and return where it lies there, verified; raises as `receive` does."""
        with mapping_os_errors(self._layout.staging):
            if not self._attempt(sha256, size_bytes, open_stream, on_bytes):
                # A power cut can leave garbage in a part that was never flushed: no fault of the store's.
                self._attempt(sha256, size_bytes, open_stream, on_bytes)
        return self._part(sha256)

    def place(self, sha256: str, size_bytes: int, pieces: Iterable[bytes]) -> Path:
        """Write a file that is unpacked here, and return its path.

        Raises ArtifactError, leaving nothing, unless the pieces have this digest; whoever makes them keeps to
        `size_bytes`, for which there must be space. StorageError as `receive`.
        """
        self.check_space(size_bytes)
        unpacked = self._layout.staging / f"{sha256}.unpacked"
        with mapping_os_errors(self._layout.staging):
            try:
                _check_unpacked(_write(unpacked, pieces), sha256)
                self._move_into_place(unpacked, sha256)
            except BaseException:
                unpacked.unlink(missing_ok=True)
                raise
        return self.path(sha256)

    def is_patch_tried(self, sha256: str, old: str) -> bool:
        """Say whether the patch that makes this file of an old one was taken, or refused, before."""
        return self._tried(sha256, old).exists()

    def patch_bytes(self, sha256: str) -> int:
        """Return how much of patches that make this file lies in staging."""
        with mapping_os_errors(self._layout.staging):
            return sum(patch.stat().st_size for patch in self._patches(sha256))

    def fetch_patch(
        self,
        sha256: str,
        old: str,
        max_bytes: int,
        open_stream: OpenStream,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Fetch into staging what makes a file of an old one; what an earlier attempt left is continued.

        Nothing vouches for it. Raises ArtifactError if it is longer than `max_bytes`, which is not tried again,
        StorageError, and whatever the stream does.
        """
        with (
            mapping_os_errors(self._layout.staging),
            self._patch(sha256, old).open("ab") as file,
            open_stream(file.tell()) as stream,
        ):
            if stream.offset != file.tell():
                file.truncate(0)
                file.seek(0)
            if (stream.size_bytes or 0) > max_bytes:
                raise self._refuse_patch(sha256, old, max_bytes)
            for chunk in stream.chunks:
                on_bytes(len(chunk))
                if file.tell() + len(chunk) > max_bytes:
                    raise self._refuse_patch(sha256, old, max_bytes)
                file.write(chunk)

    def take_patch(self, sha256: str, old: str) -> bytes:
        """Return a patch that was fetched, and remove it; raises OSError, MemoryError and StorageError.

        A note stays that it was taken: what it makes may be wrong, or too much for this device, and even should
        this process be killed for that, it is not to be fetched again.
        """
        with mapping_os_errors(self._layout.staging):
            self._tried(sha256, old).touch()
        patch = self._patch(sha256, old).read_bytes()
        with mapping_os_errors(self._layout.staging):
            self._patch(sha256, old).unlink()
        return patch

    def drop_patches(self, sha256: str) -> None:
        """Remove what came of patches that make this file; what was tried stays noted."""
        with mapping_os_errors(self._layout.staging):
            for patch in self._patches(sha256):
                patch.unlink(missing_ok=True)

    def discard_parts(self, keep: Collection[str]) -> None:
        """Remove downloads under way, except those of these digests, and what was left half unpacked."""
        with mapping_os_errors(self._layout.staging):
            for part in self._parts():
                if _sha256_of(part) not in keep:
                    part.unlink(missing_ok=True)
            for unpacked in self._layout.staging.glob("*.unpacked"):
                unpacked.unlink(missing_ok=True)

    def spare(self, keep: Collection[str]) -> dict[str, int]:
        """Return the size of every file that `collect` would remove, by digest."""
        with mapping_os_errors(self._layout.blobs):
            return {
                path.name: path.stat().st_size
                for path in self._layout.blobs.glob("??/*")
                if path.name not in keep
            }

    def stale_parts(self, before_s: float) -> dict[str, int]:
        """Return the size of each download under way that was last gone on with before this time, by digest."""
        sizes: dict[str, int] = {}
        last_s: dict[str, float] = {}
        with mapping_os_errors(self._layout.staging):
            for part in self._parts():
                sha256, stat = _sha256_of(part), part.stat()
                sizes[sha256] = sizes.get(sha256, 0) + stat.st_size
                last_s[sha256] = max(last_s.get(sha256, 0.0), stat.st_mtime)
        return {sha256: size for sha256, size in sizes.items() if last_s[sha256] < before_s}

    def drop_parts(self, sha256s: Collection[str]) -> None:
        """Remove these downloads under way."""
        with mapping_os_errors(self._layout.staging):
            for part in self._parts():
                if _sha256_of(part) in sha256s:
                    part.unlink(missing_ok=True)

    def collect(self, keep: Collection[str]) -> int:
        """Remove every file whose digest is not among `keep`, and return how many bytes that freed."""
        freed_bytes = 0
        with mapping_os_errors(self._layout.blobs):
            for path in self._layout.blobs.glob("??/*"):
                if path.name not in keep:
                    freed_bytes += path.stat().st_size
                    path.unlink()
        return freed_bytes

    def _part(self, sha256: str) -> Path:
        return self._layout.staging / f"{sha256}.part"

    def _patch(self, sha256: str, old: str) -> Path:
        return self._layout.staging / f"{sha256}.{old}.patch"

    def _patches(self, sha256: str) -> Iterator[Path]:
        return self._layout.staging.glob(f"{sha256}.*.patch")

    def _tried(self, sha256: str, old: str) -> Path:
        return self._layout.staging / f"{sha256}.{old}.tried"

    def _parts(self) -> list[Path]:
        """Return all that downloads under way have left in staging."""
        return [path for kind in ("part", "patch", "tried") for path in self._layout.staging.glob(f"*.{kind}")]

    def _refuse_patch(self, sha256: str, old: str, max_bytes: int) -> ArtifactError:
        self._tried(sha256, old).touch()
        return ArtifactError(f"it is longer than the {max_bytes} bytes that are worth it")

    def _attempt(
        self, sha256: str, size_bytes: int, open_stream: OpenStream, on_bytes: Callable[[int], None]
    ) -> bool:
        """Fetch into the part; return False, and no part is left, for a wrong digest after resuming."""
        part = self._part(sha256)
        self.check_space(size_bytes - self.staged_bytes(sha256, size_bytes))
        with part.open("a+b") as file:
            receiver = _Receiver(file, sha256, size_bytes)
            try:
                resumed = receiver.run(open_stream, on_bytes)
            except ArtifactError:
                part.unlink()
                raise
        if not receiver.is_right:
            part.unlink()
            if resumed:
                return False
            raise ArtifactError(
                f"The store's file {sha256} has the digest {receiver.digest}: it is not the file that was "
                "signed, publish it again."
            )
        return True

    def _move_into_place(self, part: Path, sha256: str) -> None:
        sync_file(part)
        part.chmod(0o644)
        target = self.path(sha256)
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o750)
            sync_folder(self._layout.blobs)
        part.replace(target)
        sync_folder(target.parent)
        sync_folder(self._layout.staging)


class _Receiver:
    """One download into an open part: hashes what is there, then appends what comes."""

    def __init__(self, file: IO[bytes], sha256: str, size_bytes: int) -> None:
        self._file = file
        self._sha256 = sha256
        self._size_bytes = size_bytes
        self._hash = hashlib.sha256()
        self._have_bytes = 0

    @property
    def digest(self) -> str:
        """The digest of what is there."""
        return self._hash.hexdigest()

    @property
    def is_right(self) -> bool:
        """Whether what is there is the file."""
        return self.digest == self._sha256

    def run(self, open_stream: OpenStream, on_bytes: Callable[[int], None]) -> bool:
        """Fetch what is missing; return whether an earlier attempt was continued."""
        self._hash_part(on_bytes)
        resumed = self._have_bytes > 0
        if self._have_bytes < self._size_bytes:
            with open_stream(self._have_bytes) as stream:
                if stream.offset != self._have_bytes:
                    self._start_over()
                    resumed = False
                for chunk in stream.chunks:
                    self._append(chunk)
                    on_bytes(len(chunk))
        self._file.flush()
        if self._have_bytes < self._size_bytes:
            raise StoreUnreachableError(
                f"The store's file {self._sha256} ended after {self._have_bytes} of {self._size_bytes} bytes; "
                "what came is kept, the next attempt continues."
            )
        return resumed

    def _hash_part(self, on_bytes: Callable[[int], None]) -> None:
        if self._file.seek(0, os.SEEK_END) > self._size_bytes:
            self._start_over()
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK_BYTES):
            self._hash.update(chunk)
            self._have_bytes += len(chunk)
            on_bytes(0)

    def _start_over(self) -> None:
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self._have_bytes = 0

    def _append(self, chunk: bytes) -> None:
        if self._have_bytes + len(chunk) > self._size_bytes:
            raise ArtifactError(
                f"The store's file {self._sha256} is longer than the {self._size_bytes} bytes that were "
                "signed: publish it again."
            )
        self._file.write(chunk)
        self._hash.update(chunk)
        self._have_bytes += len(chunk)


def _sha256_of(part: Path) -> str:
    """Return the digest of the file that a part in staging is for."""
    return part.name.partition(".")[0]


def _write(path: Path, pieces: Iterable[bytes]) -> str:
    """Write the pieces and return their digest."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def _check_unpacked(digest: str, sha256: str) -> None:
    if digest != sha256:
        raise ArtifactError(
            f"A compressed file holds {digest} instead of {sha256}, which was signed: build the version again."
        )


def _mib(size_bytes: int) -> str:
    return f"{max(size_bytes, 1) / 2**20:.1f} MiB"
