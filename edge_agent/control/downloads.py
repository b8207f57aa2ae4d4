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
        # What is here of a patch makes room before the file that it makes.
        patch_bytes = sum(blobs.patch_bytes(file.sha256) for file in missing)
        progress = Progress(self._report, missing_bytes - patch_bytes)
        blobs.check_space(_room_bytes(missing, blobs) - patch_bytes)
        for file in missing:
            if not self._patch(file, old.get(file.kept_sha256, ()), progress):
                blobs.drop_patches(file.sha256)
                open_stream = partial(self._store.stream, blob_path(file.sha256))
                self._receive(file, self._meter.metered(open_stream, file.size_bytes), progress)
        blobs.discard_parts(())
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
        download of that one that has begun is continued instead.
        """
        blobs, before_bytes = self._blobs, progress.done_bytes
        patch_bytes = blobs.patch_bytes(file.sha256)
        has_begun = blobs.staged_bytes(file.sha256, file.size_bytes) > 0
        is_made = not has_begun and any(
            self._make(file, sha256, progress) for sha256 in old if self._can_be_patched(file, sha256)
        )
        # What was saved does not have to come; what came for nothing had to, beside the whole.
        came_bytes = patch_bytes + progress.done_bytes - before_bytes
        progress.correct(came_bytes - (file.size_bytes if is_made else 0))
        return is_made

    def _can_be_patched(self, file: File, old: str) -> bool:
        try:
            longest = max(file.kept_size_bytes, self._blobs.path(old).stat().st_size)
        except OSError:
            return False
        return longest <= PATCH_LIMIT_BYTES and not self._blobs.is_patch_tried(file.sha256, old)

    def _make(self, file: File, old: str, progress: Progress) -> bool:
        """Make a file of an old one and a patch; return whether it is the one that was signed.

        Neither a store that fails to give a patch, nor a disk that does not give the old file back, nor a lack
        of memory keeps a version out. What came is kept, and continued, where DownloadPausedError is raised, or
        StoreUnreachableError for a link that broke, but has brought something. Raises StorageError where the
        new file cannot be written, since then the whole could not be either.
        """
        blobs, max_bytes = self._blobs, file.size_bytes // 2
        before_bytes = blobs.patch_bytes(file.sha256)
        open_stream = partial(self._store.stream, patch_path(file.kept_sha256, old))
        try:
            metered = self._meter.metered(open_stream, max_bytes)
            blobs.fetch_patch(file.sha256, old, max_bytes, metered, progress.add)
            patch = blobs.take_patch(file.sha256, old)
            pieces = packing.patched(patch, blobs.path(old).read_bytes(), file.kept_size_bytes)
            blobs.place(file.kept_sha256, file.kept_size_bytes, progress.through("Unpacking", pieces))
        except StoreFileMissingError:
            return False
        except StoreUnreachableError as error:
            if blobs.patch_bytes(file.sha256) > before_bytes:
                raise
            log.warning("A patch does not come, the whole file is fetched: %s", error)
            return False
        except (ArtifactError, OSError, MemoryError) as error:
            log.warning("A patch is of no use, the whole file is fetched: %s", str(error) or "out of memory")
            return False
        return True


def _room_bytes(missing: Sequence[File], blobs: BlobStore) -> int:
    """Return the space that the files take at most while they come: of compressed ones both forms of one."""
    to_come = {file: blobs.missing_bytes({file.sha256: file.size_bytes}) for file in missing}
    kept = sum(size if file.compression == "none" else file.kept_size_bytes for file, size in to_come.items())
    return kept + max((size for file, size in to_come.items() if file.compression != "none"), default=0)
