"""Files that shall not run on this device: kept in the deployed state, told in the journal."""

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.store_watch import StoreWatch
from edge_agent.documents.plan import VersionPlan

QUARANTINE_LIMIT = 256


class Quarantine:
    """Adds to the quarantine."""

    def __init__(self, state: DurableState, journal: Journal, watch: StoreWatch) -> None:
        self._state = state
        self._journal = journal
        self._watch = watch

    def add(self, version: VersionPlan, reason: str) -> None:
        """Let a version's file run no more, until it is another or an operator says so."""
        old = self._state.value.quarantine
        kept = dict(list(old.items())[-QUARANTINE_LIMIT + 1 :])
        self._state.change(quarantine={**kept, version.sha256: reason})
        self._journal.record("quarantined", reason, model=version.model, version=version.version)
        self._watch.tell(f"Refused {version.model} {version.version}: {reason}")
