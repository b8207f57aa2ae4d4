"""Charges crashes and hangs of the serving process to versions, and leaves out those that have too many."""

import time
from collections.abc import Callable

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.quarantine import Quarantine
from edge_agent.control.supervise import ServingEnded
from edge_agent.documents.plan import Plan
from edge_agent.documents.settings import SupervisorSettings
from edge_agent.policy import crashes


class Charges:
    """Keeps the incidents in the deployed state."""

    def __init__(
        self,
        settings: SupervisorSettings,
        state: DurableState,
        journal: Journal,
        quarantine: Quarantine,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._state = state
        self._journal = journal
        self._quarantine = quarantine
        self._clock = clock

    def take(self, end: ServingEnded, wanted: Plan) -> bool:
        """Note how serving has ended; return whether a version of what is `wanted` is left out for it."""
        suspects = ", ".join(end.suspects)
        charged = f", charged to {suspects}" if suspects else ""
        self._journal.record(
            "hung" if end.hung else "crashed", f"The serving process {end.how}{charged}; it is started again."
        )
        return bool(end.suspects) and self._charge(end, wanted)

    def _charge(self, end: ServingEnded, wanted: Plan) -> bool:
        state, now_s = self._state.value, self._clock()
        recent = crashes.within(state.incidents, now_s, self._settings.crash_window_s)
        incidents = (*recent, crashes.Incident(now_s, end.suspects))
        settled = {version.key for versions in state.fallback.values() for version in versions}
        key = crashes.blamed(incidents, self._settings.crash_limit, settled)
        self._state.change(incidents=incidents if key is None else crashes.without(incidents, key))
        known = {v.key: v for plan in (state.current, state.target or Plan(), wanted) for v in plan.versions}
        if key is None or key not in known:
            return False
        what = "hung" if end.hung else "crashed"
        self._quarantine.add(known[key], f"It {what} the serving process {self._settings.crash_limit} times.")
        return True
