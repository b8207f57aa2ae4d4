"""Brings the files of a plan here: whole, or as what differs from a file that is here."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from edge_agent.control.fetch import Store, StoreFileMissingError
from edge_agent.control.metering import Meter
from edge_agent.documents.errors import ArtifactError, StoreUnreachableError
from edge_agent.documents.ipc import SyncProgress
from edge_agent.documents.manifest import PATCH_LIMIT_BYTES, File, blob_path, patch_path
from edge_agent.policy.transfer_rate import TransferRate
from edge_agent.store import packing
from edge_agent.store.blobs import BlobStore, OpenStream

Report = Callable[[SyncProgress], None]

log = logging.getLogger(__name__)

_PROGRESS_INTERVAL_S: Final = 0.25


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
        progress = _Progress(
            blobs.missing_bytes({file.sha256: file.size_bytes for file in missing}), self._report
        )
        blobs.check_space(_room_bytes(missing, blobs))
        for file in missing:
            patch_bytes = self._patch(file, old.get(file.kept_sha256, ()))
            if patch_bytes is not None:
                progress.saved(file.size_bytes - patch_bytes)
                progress.add(patch_bytes)
                continue
            open_stream = partial(self._store.stream, blob_path(file.sha256))
            self._receive(file, self._meter.metered(open_stream, file.size_bytes), progress)
        return progress.done_bytes

    def _receive(self, file: File, open_stream: OpenStream, progress: "_Progress") -> None:
        if file.compression == "none":
            self._blobs.receive(file.sha256, file.size_bytes, open_stream, progress.add)
            return
        # Should unpacking fail, what was fetched stays in staging, so that a retry costs no second download.
        part = self._blobs.fetch(file.sha256, file.size_bytes, open_stream, progress.add)
        progress.tell("Unpacking")
        with part.open("rb") as packed:
            self._blobs.place(file.kept_sha256, file.kept_size_bytes, packing.unpacked(packed, file))
        part.unlink()

    def _patch(self, file: File, old: Sequence[str]) -> int | None:
        """Make a file from an old one and a patch; return the patch's length, None where that is not possible.

        Nothing vouches for a patch: what comes out must have the signed digest, or the whole file is fetched. A
        download that has begun is continued instead, since a patch is not resumed.
        """
        blobs = self._blobs
        if file.kept_size_bytes > PATCH_LIMIT_BYTES or blobs.staged_bytes(file.sha256, file.size_bytes):
            return None
        for sha256 in old:
            if not blobs.has(sha256) or blobs.path(sha256).stat().st_size > PATCH_LIMIT_BYTES:
                continue
            patch = self._fetch_patch(patch_path(file.kept_sha256, sha256), file.size_bytes // 2)
            if patch is None:
                continue
            try:
                pieces = packing.patched(patch, blobs.path(sha256).read_bytes(), file.kept_size_bytes)
                blobs.place(file.kept_sha256, file.kept_size_bytes, pieces)
            except ArtifactError as error:
                log.warning("A patch of the store's is of no use: %s", error)
                continue
            return len(patch)
        return None

    def _fetch_patch(self, path: str, max_bytes: int) -> bytes | None:
        content = bytearray()
        try:
            with self._meter.metered(partial(self._store.stream, path), max_bytes)(0) as stream:
                for chunk in stream.chunks:
                    content += chunk
                    if len(content) > max_bytes:
                        return None
        except StoreFileMissingError:
            return None
        except StoreUnreachableError as error:
            log.warning("A patch did not come, the whole file is fetched: %s", error)
            return None
        return bytes(content)


def _room_bytes(missing: Sequence[File], blobs: BlobStore) -> int:
    """Return the space that the files take at most while they come: of compressed ones both forms of one."""
    to_come = {file: blobs.missing_bytes({file.sha256: file.size_bytes}) for file in missing}
    kept = sum(size if file.compression == "none" else file.kept_size_bytes for file, size in to_come.items())
    return kept + max((size for file, size in to_come.items() if file.compression != "none"), default=0)


class _Progress:
    """Counts bytes, and reports them a few times a second."""

    def __init__(self, total_bytes: int, report: Report) -> None:
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self._report = report
        self._reported_s = 0.0
        self._rate = TransferRate(((time.monotonic(), 0),))

    def saved(self, size_bytes: int) -> None:
        self.total_bytes -= size_bytes

    def add(self, size_bytes: int) -> None:
        self.done_bytes += size_bytes
        now_s = time.monotonic()
        self._rate = self._rate.seen(now_s, self.done_bytes)
        if now_s - self._reported_s >= _PROGRESS_INTERVAL_S or self.done_bytes == self.total_bytes:
            self._reported_s = now_s
            self.tell("Downloading")

    def tell(self, step: str) -> None:
        self._report(SyncProgress(step, self.done_bytes, self.total_bytes, self._rate.bytes_per_s))
