"""Brings the files of a plan here: whole, or as what differs from a file that is here."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial

from edge_agent.control.fetch import Store, StoreFileMissingError
from edge_agent.control.metering import Meter
from edge_agent.control.progress import Progress, Report
from edge_agent.documents.errors import ArtifactError, StoreUnreachableError
from edge_agent.documents.manifest import PATCH_LIMIT_BYTES, File, blob_path, patch_path
from edge_agent.store import packing
from edge_agent.store.blobs import BlobStore, OpenStream

log = logging.getLogger(__name__)


class Downloads:
    """Fetches from one store, within the meter's limits; raises EdgeAgentError, and keeps what came."""

    def __init__(self, blobs: BlobStore, store: Store, meter: Meter, report: Report) -> None:
        self._blobs = blobs
        self._store = store
        self._meter = meter
        self._report = report

    def fetch(self, files: Mapping[str, File], old: Mapping[str, Sequence[str]]) -> int:
        """Fetch what is not here yet, and return how many bytes came.

        `files` are by the digest they are kept under; `old` says from which files, best first, one may be made.
        """
        blobs = self._blobs
        missing = [file for sha256, file in files.items() if not blobs.has(sha256)]
        blobs.discard_parts([file.sha256 for file in missing])
        missing_bytes = blobs.missing_bytes({file.sha256: file.size_bytes for file in missing})
        progress = Progress(self._report, missing_bytes)
        blobs.check_space(_room_bytes(missing, blobs))
        for file in missing:
            if not self._patch(file, old.get(file.kept_sha256, ()), progress):
                open_stream = partial(self._store.stream, blob_path(file.sha256))
                self._receive(file, self._meter.metered(open_stream, file.size_bytes), progress)
        return progress.done_bytes

    def _receive(self, file: File, open_stream: OpenStream, progress: Progress) -> None:
        if file.compression == "none":
            self._blobs.receive(file.sha256, file.size_bytes, open_stream, progress.add)
            return
        # Should unpacking fail, what was fetched stays in staging, so that a retry costs no second download.
        part = self._blobs.fetch(file.sha256, file.size_bytes, open_stream, progress.add)
        with part.open("rb") as packed:
            pieces = progress.through("Unpacking", packing.unpacked(packed, file))
            self._blobs.place(file.kept_sha256, file.kept_size_bytes, pieces)
        part.unlink()

    def _patch(self, file: File, old: Sequence[str], progress: Progress) -> bool:
        """Make a file from an old one and a patch; return whether that was possible.

        Nothing vouches for a patch: what comes out must have the signed digest, or the whole file is fetched. A
        download that has begun is continued instead, since a patch is not resumed.
        """
        blobs = self._blobs
        if file.kept_size_bytes > PATCH_LIMIT_BYTES or blobs.staged_bytes(file.sha256, file.size_bytes):
            return False
        for sha256 in old:
            if not self._can_be_patched(sha256):
                continue
            before_bytes = progress.done_bytes
            patch = self._fetch_patch(patch_path(file.kept_sha256, sha256), file.size_bytes // 2, progress)
            is_made = patch is not None and self._apply(patch, file, sha256, progress)
            # What came for nothing had to come, too.
            progress.correct(progress.done_bytes - before_bytes - (file.size_bytes if is_made else 0))
            if is_made:
                return True
        return False

    def _can_be_patched(self, old: str) -> bool:
        try:
            return self._blobs.path(old).stat().st_size <= PATCH_LIMIT_BYTES
        except OSError:
            return False

    def _fetch_patch(self, path: str, max_bytes: int, progress: Progress) -> bytes | None:
        content = bytearray()
        try:
            with self._meter.metered(partial(self._store.stream, path), max_bytes)(0) as stream:
                for chunk in stream.chunks:
                    content += chunk
                    progress.add(len(chunk))
                    if len(content) > max_bytes:
                        return None
        except StoreFileMissingError:
            return None
        except StoreUnreachableError as error:
            log.warning("A patch did not come, the whole file is fetched: %s", error)
            return None
        return bytes(content)

    def _apply(self, patch: bytes, file: File, old: str, progress: Progress) -> bool:
        """Make a file of a patch and an old one; return whether it is the one that was signed.

        Neither a disk that does not give the old file back nor a lack of memory keeps a version out. Raises
        StorageError where the new one cannot be written, since then the whole file could not be either.
        """
        try:
            pieces = packing.patched(patch, self._blobs.path(old).read_bytes(), file.kept_size_bytes)
            self._blobs.place(file.kept_sha256, file.kept_size_bytes, progress.through("Unpacking", pieces))
        except (ArtifactError, OSError, MemoryError) as error:
            log.warning("A patch is of no use, the whole file is fetched: %s", str(error) or "out of memory")
            return False
        return True


def _room_bytes(missing: Sequence[File], blobs: BlobStore) -> int:
    """Return the space that the files take at most while they come: of compressed ones both forms of one."""
    to_come = {file: blobs.missing_bytes({file.sha256: file.size_bytes}) for file in missing}
    kept = sum(size if file.compression == "none" else file.kept_size_bytes for file, size in to_come.items())
    return kept + max((size for file, size in to_come.items() if file.compression != "none"), default=0)
