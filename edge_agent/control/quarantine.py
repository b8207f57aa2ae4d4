"""The files that shall not run on this device, and why."""

from collections.abc import Callable
from typing import Final

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.documents.plan import VersionPlan

LIMIT: Final = 256
"""Files that are remembered; the oldest make room."""


class Quarantine:
    """Refuses versions by the digest of their file; `tell` shows those who wait for a sync what was refused."""

    def __init__(self, state: DurableState, journal: Journal, tell: Callable[[str], None]) -> None:
        self._state = state
        self._journal = journal
        self._tell = tell

    def add(self, version: VersionPlan, reason: str) -> None:
        """Never run this version's file here again, until its digest changes."""
        old = self._state.value.quarantine
        kept = dict(list(old.items())[-LIMIT + 1 :])
        self._state.change(quarantine={**kept, version.sha256: reason})
        self._journal.record("quarantined", reason, model=version.model, version=version.version)
        self._tell(f"Refused {version.model} {version.version}: {reason}")
