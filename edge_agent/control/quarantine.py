"""The files that shall not run on this device, and why: until an operator says so, or other files come."""

import time
from collections.abc import Callable, Collection

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.documents.errors import NotFoundError
from edge_agent.documents.plan import VersionPlan
from edge_agent.policy import crashes
from edge_agent.store.state import DeployedState, Quarantined

LIMIT = 256
"""The oldest gives way to the next one."""


class Quarantine:
    """Puts files into the deployed state's quarantine and takes them out; each change is an event.

    `tell` shows those who wait for a sync what was refused.
    """

    def __init__(
        self,
        state: DurableState,
        journal: Journal,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._journal = journal
        self._tell = tell
        self._clock = clock

    def add(self, version: VersionPlan, reason: str, actor: str = "agent") -> None:
        """Let a version's file not run here any more."""
        old = self._state.value.quarantine
        kept = dict([item for item in old.items() if item[0] != version.sha256][-LIMIT + 1 :])
        entry = Quarantined(reason, version.model, version.version, self._clock(), actor)
        self._state.change(quarantine={**kept, version.sha256: entry})
        self._journal.record("quarantined", reason, model=version.model, version=version.version, actor=actor)
        self._tell(f"Refused {version.model} {version.version}: {reason}")

    def add_named(self, model: str, version: str, reason: str, actor: str) -> list[VersionPlan]:
        """Let no file of a version run here that is known here; return them.

        Raises NotFoundError for a version that is not on this device.
        """
        known = self._state.value.versions
        found = {one.sha256: one for one in known if (one.model, one.version) == (model, version)}
        if not found:
            names = ", ".join(sorted({f"{one.model} {one.version}" for one in known})) or "none"
            raise NotFoundError(f"{model} {version} is not on this device; the versions are: {names}.")
        for one in found.values():
            self.add(one, reason, actor)
        return list(found.values())

    def release(self, sha256s: Collection[str], reason: str, actor: str) -> list[Quarantined]:
        """Let files run here again, once they pass another probe; return what they were.

        What they are charged with is forgotten, too.
        """
        state = self._state.value
        released = {sha256: entry for sha256, entry in state.quarantine.items() if sha256 in sha256s}
        keys = {version.key for version in state.versions if version.sha256 in released}
        incidents = state.incidents
        for key in keys:
            incidents = crashes.without(incidents, key)
        self._state.change(
            quarantine={key: entry for key, entry in state.quarantine.items() if key not in released},
            passed={key: found for key, found in state.passed.items() if key not in keys},
            incidents=incidents,
        )
        for entry in released.values():
            self._journal.record(
                "released", reason, model=entry.model or None, version=entry.version or None, actor=actor
            )
        return list(released.values())

    def digests(self, model: str, version: str) -> list[str]:
        """Return what is in quarantine of a version; raises NotFoundError if nothing is."""
        entries = self._state.value.quarantine
        found = [key for key, entry in entries.items() if (entry.model, entry.version) == (model, version)]
        if not found:
            names = ", ".join(sorted({f"{one.model} {one.version}" for one in entries.values()})) or "none"
            raise NotFoundError(f"{model} {version} is not in quarantine; the versions there are: {names}.")
        return found


def reasons(state: DeployedState) -> dict[str, str]:
    """Return why each file in quarantine shall not run here, by digest."""
    return {sha256: entry.reason for sha256, entry in state.quarantine.items()}
