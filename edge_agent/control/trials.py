"""Tries fetched versions in the probe, one at a time, and keeps what came of it."""

import asyncio
import logging
import time
from collections.abc import Callable

from edge_agent.control.deferral import Deferral
from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.model_files import ModelFiles
from edge_agent.control.prober import try_version
from edge_agent.control.quarantine import Quarantine
from edge_agent.control.store_watch import StoreWatch
from edge_agent.control.target import Target
from edge_agent.documents import ipc
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import Settings
from edge_agent.store.state import Measured

log = logging.getLogger(__name__)


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
        deferral: Deferral,
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
        self._deferral = deferral
        self._watch = watch
        self._clock = clock
        self.probing: str | None = None
        """Key of the version that is being probed."""

    async def run(self, version: VersionPlan) -> None:
        """Try a version and keep the verdict; what keeps the probe itself from it is not held against it."""
        try:
            await self._run(version)
        except OSError as error:
            self._deferral.defer(version, "tried", f"The probe could not be run: {error}.")
        except Exception as error:
            log.exception("The probe of %s failed", version.key)
            reason = f"The probe itself failed ({type(error).__name__}); the log says more."
            self._deferral.defer(version, "tried", reason)

    async def _run(self, version: VersionPlan) -> None:
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
                self._deferral.defer(version, "tried", verdict.reason)

    def _pass(self, version: VersionPlan, verdict: ipc.ProbeVerdict) -> None:
        found = Measured(verdict.runtime, verdict.load_s, verdict.run_s, verdict.peak_bytes, self._clock())
        self._state.change(passed={**self._state.value.passed, version.key: found})
        self._deferral.end()
        message = (
            f"Passed on {found.runtime}: loads in {found.load_s:.2f} s, one run takes "
            f"{found.run_s * 1000:.3g} ms, {found.peak_bytes / 2**20:.0f} MiB at most."
        )
        self._journal.record("probed", message, model=version.model, version=version.version)
