"""The attempts to load versions: on disk before each begins, so that none takes the device down for ever."""

import dataclasses
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.supervise import ServingEnded
from edge_agent.documents.plan import Plan, VersionPlan, with_id
from edge_agent.policy import attempts
from edge_agent.policy.attempts import Attempt, Interruptions

SETTLED_S: Final = 60.0
"""How long a version on trial has to serve until its attempt is over."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Attempts:
    """Owns the state's `attempt` and the counts of those that did not come to an end."""

    def __init__(
        self, state: DurableState, journal: Journal, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._state = state
        self._clock = clock
        self._boot = boot_id()
        self._settled_s = 0.0
        self._portion = 1
        open_one = state.value.attempt
        counts = attempts.interrupted(state.value.interruptions, open_one, self._boot)
        if open_one is not None:
            state.change(attempt=None, interruptions=counts)
            if counts and open_one.boot != self._boot:
                names = ", ".join(sorted({*open_one.loading, *open_one.settling}))
                journal.record("warning", f"The device went down while it loaded {names}, or soon after.")
        self._is_careful = attempts.is_careful(counts)

    def portion(self, plan: Plan) -> Plan:
        """Return as much of a plan as is to be loaded by now: all of it, or one version more each time."""
        if not self._is_careful or self._portion >= len(plan.versions):
            return plan
        return with_id(dataclasses.replace(plan, versions=plan.versions[: self._portion]))

    def begin(self, plan: Plan, serving: Plan | None) -> None:
        """Write down what is loaded from now on."""
        here = {version.key for version in serving.versions} if serving is not None else set()
        loading = tuple(version.key for version in plan.versions if version.key not in here)
        if loading:
            attempt = self._state.value.attempt
            settling = attempt.settling if attempt is not None else ()
            self._state.change(attempt=Attempt(self._boot, loading, settling))

    def applied(self, plan: Plan, on_trial: Collection[str]) -> None:
        """Close the attempt, as this plan is served; but for versions on trial, which have to settle first."""
        self._portion = len(plan.versions) + 1
        attempt = self._state.value.attempt
        if attempt is None or not attempt.loading:
            return
        settling = tuple(key for key in sorted({*attempt.loading, *attempt.settling}) if key in on_trial)
        self._settled_s = self._clock() + SETTLED_S
        self._close({version.key for version in plan.versions} - set(settling), settling)

    def step(self) -> None:
        """Close the attempt of what has served for long enough."""
        attempt = self._state.value.attempt
        if attempt is None or attempt.loading or self._clock() < self._settled_s:
            return
        self._close(attempt.settling, ())

    def refused(self) -> None:
        """Close the attempt: it has come to an end, if to no good one."""
        attempt = self._state.value.attempt
        if attempt is not None:
            self._close(attempt.loading, attempt.settling)

    def ended(self, end: ServingEnded) -> None:
        """Close the attempt, as serving has ended; count it unless a version is charged with that."""
        state = self._state.value
        counts = state.interruptions
        if not end.suspects:
            counts = attempts.ended(counts, state.attempt, end.loading)
        if state.attempt is not None:
            self._state.change(attempt=None, interruptions=counts)

    def weary(self, plan: Plan) -> VersionPlan | None:
        """Return the version of a plan during whose loads serving has ended most often; None below the limit
        from which that is a reason to wait."""
        counts = self._state.value.interruptions
        ends = [(counts.get(version.key, Interruptions()).ends, version) for version in plan.versions]
        most, worst = max(ends, key=lambda one: one[0], default=(0, None))
        return worst if most >= attempts.PATIENT_FROM else None

    def close(self) -> None:
        """Close the attempt without a word on its versions: the agent stops in order."""
        if self._state.value.attempt is not None:
            self._state.change(attempt=None)

    def guilty(self, plan: Plan) -> tuple[VersionPlan, Interruptions] | None:
        """Return the first version of a plan that is not to be loaded again, and why."""
        counts = self._state.value.interruptions
        for version in plan.versions:
            count = counts.get(version.key, Interruptions())
            if count.is_too_many:
                return version, count
        return None

    def forgive(self, keys: Collection[str]) -> None:
        """Forget what was counted of versions that are not loaded any more, or shall be tried again."""
        counts = self._state.value.interruptions
        if not counts.keys().isdisjoint(keys):
            self._state.change(interruptions={key: count for key, count in counts.items() if key not in keys})

    def _close(self, done: Collection[str], settling: tuple[str, ...]) -> None:
        """Nothing is being loaded any more; forget what was counted of those that are done."""
        counts = {key: count for key, count in self._state.value.interruptions.items() if key not in done}
        attempt = Attempt(self._boot, settling=settling) if settling else None
        self._state.change(attempt=attempt, interruptions=counts)


def boot_id() -> str:
    """Return what names this life of the machine; empty where the kernel does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
