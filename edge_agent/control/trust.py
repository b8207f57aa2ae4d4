"""What the store says, verified by TUF from the root that came with the device.

`tuf_updater` runs TUF's client workflow, in memory. Around it this closes what that leaves open: what was
verified replaces the old folder whole and flushed; a record of the versions seen outlives damage to that
folder, so that no rollback hides behind it; one process at a time works in the folder; and the time is the
trusted one.

Source: https://theupdateframework.github.io/specification/latest/, section 5.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from edge_agent.control.deadline import Deadline
from edge_agent.control.fetch import Store
from edge_agent.control.trusted_files import (
    TOP_LEVEL,
    Marks,
    contents_of,
    key_digests,
    read_marks,
    remove_leftovers,
    signed_of,
    still_binding,
    switch,
    versions_of,
    write_marks,
)
from edge_agent.control.tuf_updater import TufUpdater
from edge_agent.documents.errors import ArtifactError, StorageError, TrustError
from edge_agent.documents.timestamp_notes import newest_root, signed_at
from edge_agent.policy.trusted_time import Times, next_proven
from edge_agent.store.files import mapping_os_errors
from edge_agent.store.locks import locked_folder

DEADLINE_S: Final = 300.0


class Trust:
    """One look at the store's metadata; use as a context manager, which commits what was verified.

    `folder` is the state folder's `trust/`, which stays locked until the block ends; `bootstrap` the content of
    the root.json that came with the device; `times` what is known of the time beside what the folder knows. The
    files that are fetched through it must come before the deadline. Methods raise TrustError, ArtifactError,
    StoreUnreachableError or StorageError, entering also StateLockedError.
    """

    def __init__(
        self, folder: Path, store: Store, bootstrap: bytes, times: Times, deadline: Deadline | None = None
    ) -> None:
        self._folder = folder
        self._bootstrap = bootstrap
        self._store = store
        self._deadline = deadline or Deadline(DEADLINE_S)
        self._current = folder / "current"
        self.times = times
        self.warnings: list[str] = []
        self.is_root_withheld = False
        """Whether the store has a newer root than it gives out."""
        self._marks = Marks()
        self._kept: dict[str, bytes] = {}
        self._updater: TufUpdater | None = None
        self._refreshed = False
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as entered:
            entered.enter_context(locked_folder(self._folder))
            with mapping_os_errors(self._folder):
                remove_leftovers(self._folder)
                self._kept = contents_of(self._current)
                self._marks, problem = read_marks(self._folder)
            if problem is not None:
                self.warnings.append(problem)
            self._updater = TufUpdater(self._current, self._bootstrap, self._fetch, self._times_by)
            self._exit = entered.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what was verified, also when a later step failed: newer roots and timestamps stay trusted."""
        with self._exit:
            try:
                self.commit()
            except (StorageError, TrustError):
                if error is None:
                    raise
            finally:
                self._updater = None

    def refresh(self) -> None:
        """Fetch and verify the top-level roles; raises TrustError if they are older than what was seen."""
        self._open_updater().refresh()
        self._refreshed = True
        self._check_rollback(self._versions(self._files()))
        self._note_time()
        self._note_root()

    def target(self, path: str, max_bytes: int = 2**20, kept: bytes = b"") -> bytes | None:
        """Return the content of a signed target, verified; None if no role lists it.

        `kept` is returned without fetching anything if it is that content. Raises ArtifactError if the store's
        file is not the one that was signed, or is signed to be longer than `max_bytes`.
        """
        found = self._open_updater().find(path)
        if found is None:
            return None
        if found.length_bytes > max_bytes:
            raise ArtifactError(
                f"{path} is signed to be {found.length_bytes} bytes long, more than {max_bytes} allowed."
            )
        if kept and found.is_content(kept):
            return kept
        content = self._fetch(found.file, found.length_bytes + 1)
        if not found.is_content(content):
            raise ArtifactError(f"The store's {path} is not the file that was signed: publish it again.")
        return content

    def check_serial(self, group: str, serial: int) -> None:
        """Raise TrustError if a newer deployment of this group was seen before, else remember this one."""
        seen = self._marks.serials.get(group, 0)
        if serial < seen:
            raise TrustError(
                f"The deployment of group '{group}' has serial {serial}, this device has seen {seen}: deploy "
                "again with a higher serial."
            )
        self._marks = replace(self._marks, serials={**self._marks.serials, group: serial})

    def commit(self) -> None:
        """Put what was verified so far on disk, so that nothing older is trusted any more."""
        files = self._files()
        versions = self._versions(files)
        self._check_rollback(versions)
        keys = key_digests(signed_of(files, "root"))
        binding = still_binding(self._marks, keys)
        proven = self.times.proven if self._refreshed else binding.proven
        self._marks = replace(binding, versions={**binding.versions, **versions}, keys=keys, proven=proven)
        write_marks(self._folder, self._marks)
        if files != self._kept:
            switch(self._folder, files)
            self._kept = files

    @property
    def expires_s(self) -> dict[str, float]:
        """When each role that was used expires, Unix time."""
        return {role: time.timestamp() for role, time in self._open_updater().expires.items()}

    def _open_updater(self) -> TufUpdater:
        if self._updater is None:
            raise RuntimeError("Trust is used outside of its with block")
        return self._updater

    def _fetch(self, path: str, max_bytes: int) -> bytes:
        return self._deadline.within(lambda: self._store.get(path, max_bytes))

    def _files(self) -> dict[str, bytes]:
        """Return what is kept, with what was verified by this process in place of the old."""
        return {**self._kept, **self._open_updater().written}

    # --- what was seen before -----------------------------------------------------------------------------

    def _versions(self, files: dict[str, bytes]) -> dict[str, int]:
        """Return the versions that this process verified; a file that it only found may be damaged."""
        written = {name.removesuffix(".json") for name in self._open_updater().written}
        return versions_of(files, frozenset(role for role in TOP_LEVEL if self._refreshed or role in written))

    def _check_rollback(self, versions: dict[str, int]) -> None:
        keys = key_digests(signed_of(self._files(), "root"))
        seen = still_binding(self._marks, keys).versions
        for role, version in sorted(versions.items()):
            if version < seen.get(role, 0):
                raise TrustError(
                    f"The store went back: its {role} metadata has version {version}, this device has seen "
                    f"{seen[role]}; bring the store up to date or, if it was replaced on purpose, remove "
                    f"{self._folder}."
                )

    # --- time, and the newest root ------------------------------------------------------------------------

    def _times_by(self, root: dict[str, Any]) -> Times:
        """Return what is known of the time under this root, whose keys decide whether the past still counts."""
        self.times = replace(self.times, proven=still_binding(self._marks, key_digests(root)).proven)
        return self.times

    def _note_time(self) -> None:
        first = min(self._open_updater().expires.values())
        signed = signed_at(signed_of(self._files(), "timestamp"))
        self.times = replace(self.times, proven=next_proven(self.times.proven, signed, first))

    def _note_root(self) -> None:
        files = self._files()
        newest = newest_root(signed_of(files, "timestamp"))
        version = signed_of(files, "root").get("version", 0)
        self.is_root_withheld = newest is not None and newest > version
        if self.is_root_withheld:
            self.warnings.append(
                f"The store has root metadata of version {newest}, but gives out none after version {version}: "
                f"see that metadata/{version + 1}.root.json can be fetched from it."
            )
