"""Crashes and hangs of the serving process, charged to the versions that were inside native code."""

import time
from collections.abc import Callable

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.quarantine import Quarantine
from edge_agent.control.supervise import ServingEnded
from edge_agent.documents.plan import Plan
from edge_agent.documents.settings import SupervisorSettings
from edge_agent.policy import crashes


class CrashCharges:
    """Keeps the incidents, and quarantines a version that has caused too many."""

    def __init__(
        self,
        limits: SupervisorSettings,
        state: DurableState,
        journal: Journal,
        quarantine: Quarantine,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limits = limits
        self._state = state
        self._journal = journal
        self._quarantine = quarantine
        self._clock = clock

    def charge(self, end: ServingEnded, served: Plan) -> bool:
        """Record how serving ended while it served this plan; say whether a version was quarantined for it."""
        suspects = ", ".join(end.suspects)
        charged = f", charged to {suspects}" if suspects else ""
        self._journal.record(
            "hung" if end.hung else "crashed", f"The serving process {end.how}{charged}; it is started again."
        )
        return bool(end.suspects) and self._blame(end, served)

    def _blame(self, end: ServingEnded, served: Plan) -> bool:
        limits, state, now_s = self._limits, self._state.value, self._clock()
        recent = crashes.within(state.incidents, now_s, limits.crash_window_s)
        incidents = (*recent, crashes.Incident(now_s, end.suspects))
        settled = {version.key for versions in state.fallback.values() for version in versions}
        key = crashes.blamed(incidents, limits.crash_limit, settled)
        self._state.change(incidents=incidents if key is None else crashes.without(incidents, key))
        known = {v.key: v for plan in (state.current, state.target or Plan(), served) for v in plan.versions}
        if key is None or key not in known:
            return False
        what = "hung" if end.hung else "crashed"
        self._quarantine.add(known[key], f"It {what} the serving process {limits.crash_limit} times.")
        return True
