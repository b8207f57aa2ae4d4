"""A target that waits: this device is to blame, and no version, that it could not be tried or loaded."""

import random
import time
from collections.abc import Callable

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.store_watch import StoreWatch, SyncOutcome
from edge_agent.documents.plan import VersionPlan
from edge_agent.policy.backoff import probe_delay_s


class Deferral:
    """The version of the target that waits, how long, and why; those who wait for a sync are told."""

    def __init__(
        self,
        state: DurableState,
        journal: Journal,
        watch: StoreWatch,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._journal = journal
        self._watch = watch
        self._clock = clock
        self._waiting: VersionPlan | None = None
        self._next_s = 0.0
        self._tries = 0
        self._why = ""

    @property
    def is_over(self) -> bool:
        """Whether the target may be tried and loaded now: not while one of its versions waits."""
        return self.problem is None or self._clock() >= self._next_s

    @property
    def problem(self) -> str | None:
        """Why a version of the target could not be tried or loaded, one sentence; None if none waits."""
        target = self._state.value.target
        return self._why if target is not None and self._waiting in target.versions else None

    def end(self) -> None:
        """Let the target wait no more."""
        self._waiting = None

    def defer(self, version: VersionPlan, done: str, reason: str) -> None:
        """Let the target wait, longer each time; `done` says what could not be: `tried` or `loaded`."""
        self._tries = self._tries + 1 if version == self._waiting else 1
        self._next_s = self._clock() + probe_delay_s(self._tries, random.random())  # noqa: S311
        self._waiting = version
        self._why = f"{version.model} {version.version} could not be {done}, and will be again: {reason}"
        if self._tries == 1:
            self._journal.record("warning", self._why, model=version.model, version=version.version)
        self.tell()

    def tell(self) -> None:
        """Answer those who wait for a sync whose plan is the one that waits."""
        if (problem := self.problem) is not None and not self.is_over:
            self._watch.settle(SyncOutcome("failed", problem, exit_code=1))
