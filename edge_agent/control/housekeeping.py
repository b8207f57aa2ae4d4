"""What lies on this device that nothing needs any more, and its removal."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from edge_agent.control.activation import Activation
from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.supervise import ServingProcess
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.plan import Plan
from edge_agent.store.blobs import BlobStore
from edge_agent.store.state import DeployedState

log = logging.getLogger(__name__)

STALE_PART_S: Final = 7 * 86_400.0
"""A download that nobody has gone on with for so long is not waited for."""


@dataclass(frozen=True, slots=True)
class Spare:
    """What can go: the sizes in bytes of files, and of unfinished downloads, by digest."""

    files: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return sum(self.files.values()) + sum(self.parts.values())


class Housekeeping:
    """Keeps the files of what runs, ran before, is fetched, or is fallen back to."""

    def __init__(
        self,
        state: DurableState,
        journal: Journal,
        blobs: BlobStore,
        serving: ServingProcess,
        activation: Activation,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._journal = journal
        self._blobs = blobs
        self._serving = serving
        self._activation = activation
        self._clock = clock

    def tidy(self, *, files: bool) -> None:
        """Forget what the probe found of versions that no plan has, and remove their files if asked to."""
        state = self._state.value
        running = (version for plan in self._running() for version in plan.versions)
        keys = {version.key for version in (*state.versions, *running)}
        self._state.change(passed={key: found for key, found in state.passed.items() if key in keys})
        if not files:
            return
        try:
            self._blobs.collect(self._needed())
        except EdgeAgentError as error:
            log.warning("Old files could not be removed: %s", error)

    def collect(self, *, dry_run: bool, actor: str) -> Spare:
        """Remove what nothing needs, or only say what that is; raises StorageError."""
        found = spare(self._blobs, self._needed(), self._clock())
        if not dry_run and (found.files or found.parts):
            self._blobs.collect(self._needed())
            self._blobs.drop_parts(found.parts)
            message = (
                f"Removed {len(found.files)} files and {len(found.parts)} unfinished downloads that nothing "
                f"needs, {found.size_bytes / 2**20:.1f} MiB."
            )
            self._journal.record("collected", message, actor=actor)
        return found

    def _needed(self) -> frozenset[str]:
        return needed(self._state.value, *self._running())

    def _running(self) -> tuple[Plan, Plan]:
        """Return what serves, and what is being applied: the state may have a newer target by now."""
        return self._serving.plan or Plan(), self._activation.plan


def needed(state: DeployedState, *running: Plan) -> frozenset[str]:
    """Return the digests of the files that a device must keep."""
    versions = (*state.versions, *(version for plan in running for version in plan.versions))
    return frozenset(sha256 for version in versions for sha256 in version.files)


def spare(blobs: BlobStore, keep: frozenset[str], now_s: float) -> Spare:
    """Return what can go; raises StorageError where the disk cannot be read."""
    return Spare(blobs.spare(keep), blobs.stale_parts(now_s - STALE_PART_S))
