"""Trials of versions by the probe, and what follows from their verdicts."""

import asyncio
import time
from typing import Final

from edge_agent.control.durable_state import DurableState
from edge_agent.control.model_files import ModelFiles
from edge_agent.control.prober import try_version
from edge_agent.control.quarantine import Quarantine
from edge_agent.control.store_watch import StoreWatch, SyncOutcome
from edge_agent.control.target import Target
from edge_agent.documents import ipc
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import Settings

RETRY_S: Final = 60.0


class Trials:
    """Runs the probe, remembers what passed, and refuses what failed."""

    def __init__(
        self,
        settings: Settings,
        state: DurableState,
        files: ModelFiles,
        target: Target,
        quarantine: Quarantine,
        watch: StoreWatch,
    ) -> None:
        self._settings = settings
        self._state = state
        self._files = files
        self._target = target
        self._quarantine = quarantine
        self._watch = watch
        self._next_s = 0.0
        self.probing: str | None = None
        """Key of the version that is being probed."""
        self.problem: str | None = None
        """Why a version could not be tried, one sentence; None once one could."""

    @property
    def due(self) -> bool:
        """Whether a version may be tried now: not while an inconclusive trial waits for its next one."""
        return time.monotonic() >= self._next_s

    async def run(self, version: VersionPlan) -> None:
        """Try a version; a failure is not its own if a file of it was damaged here."""
        self.probing = version.key
        self._watch.tell(f"Trying {version.model} {version.version} on this device")
        try:
            verdict = await try_version(version, self._settings)
        finally:
            self.probing = None
        damaged = await asyncio.to_thread(self._files.damaged, version) if verdict.outcome == "failed" else []
        if damaged:
            self._target.start_over(version, damaged)
        else:
            self._judge(version, verdict)

    def _judge(self, version: VersionPlan, verdict: ipc.ProbeVerdict) -> None:
        self.problem = None
        match verdict.outcome:
            case "passed":
                self._state.change(passed=(*self._state.value.passed, version.key))
            case "failed":
                self._quarantine.add(version, verdict.reason)
            case "inconclusive":
                self._next_s = time.monotonic() + RETRY_S
                self.problem = (
                    f"{version.model} {version.version} could not be tried, and will be again: {verdict.reason}"
                )
                self._watch.settle(SyncOutcome("failed", self.problem, exit_code=1))
