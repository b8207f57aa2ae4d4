"""Tries fetched versions in the probe, one at a time, and keeps what came of it."""

import asyncio
import random
import time
from collections.abc import Callable

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.model_files import ModelFiles
from edge_agent.control.prober import try_version
from edge_agent.control.quarantine import Quarantine
from edge_agent.control.store_watch import StoreWatch, SyncOutcome
from edge_agent.control.target import Target
from edge_agent.documents import ipc
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import Settings
from edge_agent.policy.backoff import probe_delay_s
from edge_agent.store.state import Measured


class Trials:
    """Owns the probe: a version that fails goes into quarantine, one that could not be tried waits."""

    def __init__(
        self,
        settings: Settings,
        state: DurableState,
        journal: Journal,
        files: ModelFiles,
        target: Target,
        quarantine: Quarantine,
        watch: StoreWatch,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._state = state
        self._journal = journal
        self._files = files
        self._target = target
        self._quarantine = quarantine
        self._watch = watch
        self._clock = clock
        self._waiting: VersionPlan | None = None
        """Could not be tried, and will be again."""
        self._next_s = 0.0
        self._tries = 0
        self._why = ""
        self.probing: str | None = None
        """Key of the version that is being probed."""

    @property
    def due(self) -> bool:
        """Whether a version may be tried now: not while one of the target that could not be waits."""
        return self.problem is None or time.monotonic() >= self._next_s

    @property
    def problem(self) -> str | None:
        """Why a version of the target could not be tried, one sentence; None if none waits."""
        target = self._state.value.target
        return self._why if target is not None and self._waiting in target.versions else None

    def hurry(self) -> None:
        """Try again at once what could not be tried."""
        self._waiting = None

    async def run(self, version: VersionPlan) -> None:
        """Try a version and keep the verdict; what came of a file that was damaged here is not its own."""
        self.probing = version.key
        self._watch.tell(f"Trying {version.model} {version.version} on this device")
        try:
            verdict = await try_version(version, self._settings)
        finally:
            self.probing = None
        is_doubtful = verdict.outcome == "failed" or verdict.is_unreadable
        damaged = await asyncio.to_thread(self._files.damaged, version) if is_doubtful else []
        if damaged:
            self._target.start_over(version, damaged)
        else:
            self._judge(version, verdict)

    def _judge(self, version: VersionPlan, verdict: ipc.ProbeVerdict) -> None:
        match verdict.outcome:
            case "passed":
                self._pass(version, verdict)
            case "failed":
                self._quarantine.add(version, verdict.reason)
            case "inconclusive":
                self._defer(version, verdict.reason)

    def _pass(self, version: VersionPlan, verdict: ipc.ProbeVerdict) -> None:
        found = Measured(verdict.runtime, verdict.load_s, verdict.run_s, verdict.peak_bytes, self._clock())
        self._state.change(passed={**self._state.value.passed, version.key: found})
        message = (
            f"Passed on {found.runtime}: loads in {found.load_s:.2f} s, one run takes "
            f"{found.run_s * 1000:.3g} ms, {found.peak_bytes / 2**20:.0f} MiB at most."
        )
        self._journal.record("probed", message, model=version.model, version=version.version)

    def _defer(self, version: VersionPlan, reason: str) -> None:
        self._tries = self._tries + 1 if version == self._waiting else 1
        self._next_s = time.monotonic() + probe_delay_s(self._tries, random.random())  # noqa: S311
        self._waiting = version
        self._why = f"{version.model} {version.version} could not be tried, and will be again: {reason}"
        if self._tries == 1:
            self._journal.record("warning", self._why, model=version.model, version=version.version)
        self._watch.settle(SyncOutcome("failed", self._why, exit_code=1))
