"""The files of models on this device: damaged ones are fetched again, needless ones are dropped."""

import logging
from collections.abc import Callable, Collection

from edge_agent.control.journal import Journal
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.plan import VersionPlan
from edge_agent.store.blobs import BlobStore

log = logging.getLogger(__name__)


class ModelFiles:
    """The blobs of the plans; `hurry` has the store looked at soon."""

    def __init__(self, blobs: BlobStore, journal: Journal, hurry: Callable[[], None]) -> None:
        self._blobs = blobs
        self._journal = journal
        self._hurry = hurry

    def is_sound(self, sha256: str) -> bool:
        """Say whether a file is here, and is what was signed."""
        return self._blobs.verify(sha256)

    def damaged(self, version: VersionPlan) -> list[str]:
        """Return the digests of a version's files that are not sound; reads all of them."""
        return [sha256 for sha256 in version.files if not self.is_sound(sha256)]

    def fetch_again(self, version: VersionPlan, damaged: Collection[str]) -> None:
        """Remove these files of a version and have them fetched."""
        message = "Its file is damaged or gone, and is fetched again."
        try:
            for sha256 in damaged:
                self._blobs.remove(sha256)
        except EdgeAgentError as error:
            message = f"Its file is damaged and cannot be replaced: {error}"
        self._journal.record("state_damaged", message, model=version.model, version=version.version)
        self._hurry()
