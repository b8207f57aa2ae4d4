"""Looks at the store, when it is due or asked for, and tells those who asked what came of it."""

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from edge_agent.control.children import ChildEnd, converse
from edge_agent.control.journal import Journal
from edge_agent.control.maintenance import Maintenance
from edge_agent.documents import ipc
from edge_agent.documents.messages import SyncReport, SyncStep, Wait
from edge_agent.documents.plan import Plan
from edge_agent.documents.settings import Settings
from edge_agent.policy.backoff import resume_delay_s, sync_delay_s
from edge_agent.policy.transfer_rate import eta_s

SYNC_SILENCE_S = 600.0
"""A sync child that says nothing for so long is stuck; each of its requests has a deadline far below."""

Progress = Callable[[ipc.AdminProgress], None]


@dataclass(frozen=True, slots=True)
class SyncOutcome:
    """What came of a look at the store, all the way to serving."""

    status: Literal["unchanged", "activated", "waiting", "refused", "failed"]
    message: str
    serial: int = 0
    exit_code: int = 0


@dataclass(slots=True)
class _Waiter:
    progress: Progress
    outcome: asyncio.Future[SyncOutcome]
    at_once: bool
    """Whether neither a window nor a budget shall be waited for."""


@dataclass(slots=True)
class _Asked:
    """What the next look was asked to be."""

    force: bool = False
    folder: str | None = None
    waiters: list[_Waiter] = field(default_factory=list)


class StoreWatch:
    """Owns the sync child, its schedule and the reports about it."""

    def __init__(self, settings: Settings, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._journal = journal
        self._clock = clock
        self._next_s = 0.0
        self._failures = 0
        self._missing_bytes = 0
        """What had to be fetched when the last look failed."""
        self._asked = _Asked()
        self._folder: str | None = None
        self._waiting: list[_Waiter] = []
        self._warnings: tuple[str, ...] = ()
        self._failure = ""
        self._pause: Wait | None = None
        self._held: Plan | None = None
        self.maintenance = Maintenance(settings.updates, clock, lambda: self._at_once)
        self.report = SyncReport("never" if settings.store.url else "off")

    @property
    def due(self) -> bool:
        """Whether a look is asked for or its time has come."""
        if self._asked.waiters or self._asked.force:
            return True
        return self._settings.store.url is not None and time.monotonic() >= self._next_s

    @property
    def due_in_s(self) -> float:
        """Seconds until the next look; infinite without a store."""
        if self._settings.store.url is None:
            return float("inf")
        return max(0.0, self._next_s - time.monotonic())

    @property
    def problems(self) -> tuple[str, ...]:
        """What an operator should know of the store, one sentence each."""
        return (self._failure, *self._warnings) if self._failure else self._warnings

    @property
    def waits(self) -> tuple[Wait, ...]:
        """What an update waits for."""
        held = () if self._held is None else (self.maintenance.wait(self._held),)
        return held if self._pause is None else (self._pause, *held)

    @property
    def _at_once(self) -> bool:
        """Whether an operator waits who will not wait for a window; until the outcome is known."""
        return any(waiter.at_once for waiter in (*self._waiting, *self._asked.waiters))

    def ask(
        self, *, force: bool, folder: str | None, progress: Progress, at_once: bool = False
    ) -> asyncio.Future[SyncOutcome]:
        """Ask for a look that begins after this moment; the result is its outcome.

        With `at_once` nothing that it brings waits for a window.
        """
        waiter = _Waiter(progress, asyncio.get_running_loop().create_future(), at_once)
        self._asked.waiters.append(waiter)
        # What is fetched and waits is no news to a store that has not changed.
        self._asked.force |= force or at_once
        self._asked.folder = folder or self._asked.folder
        return waiter.outcome

    def hurry(self) -> None:
        """Look as soon as possible where the last look was, even if the store says that nothing changed."""
        if self._settings.store.url is not None or self._folder is not None:
            self._asked.force = True
            self._asked.folder = self._asked.folder or self._folder

    def tell(self, message: str, done_bytes: int = 0, total_bytes: int = 0) -> None:
        """Show those who wait how far things are."""
        progress = ipc.AdminProgress(message=message, done_bytes=done_bytes, total_bytes=total_bytes)
        for waiter in self._waiting:
            waiter.progress(progress)

    def hold(self, target: Plan | None, *, is_settled: bool) -> None:
        """Take note that a target only waits for its window, or that none does.

        Those who wait are told so once it `is_settled`: no sync is under way that may bring another target.
        """
        self._held = target
        if target is not None and is_settled and self._waiting:
            self.settle(SyncOutcome("waiting", self.maintenance.wait(target).message, target.serial))

    def settle(self, outcome: SyncOutcome) -> None:
        """Give those who wait their answer."""
        for waiter in self._waiting:
            if not waiter.outcome.done():
                waiter.outcome.set_result(outcome)
        self._waiting.clear()

    async def look(self, quarantined: Mapping[str, str], known: tuple[Plan, ...]) -> Plan | None:
        """Run one sync; return the plan that the store's documents give, or None if there is no new one.

        Where there is none, those who wait are answered here; a plan's outcome is known to who applies it.
        """
        asked, self._asked = self._asked, _Asked()
        self._waiting += asked.waiters
        self._folder = asked.folder
        request = ipc.SyncRequest(
            settings=self._settings,
            quarantined=dict(quarantined),
            force=asked.force,
            folder=asked.folder,
            known_plans=tuple(plan.id for plan in known),
            have=_files_by_model(known),
            at_once=self._at_once,
        )
        self.report = SyncReport("running", self.report.finished_s, self.report.message, self.report.expires_s)
        results: list[ipc.SyncResult] = []
        end = await converse(
            "edge_agent.control.sync",
            request,
            ipc.FromSync,
            lambda answer: self._answer(answer, results),
            silence_s=SYNC_SILENCE_S,
        )
        return self._conclude(results[-1] if results else _without_result(end))

    def _answer(self, answer: ipc.FromSync, results: list[ipc.SyncResult]) -> None:
        if isinstance(answer, ipc.SyncResult):
            results.append(answer)
        else:
            self.report = dataclasses.replace(self.report, step=_step(answer))
            self.tell(answer.message, answer.done_bytes, answer.total_bytes)

    def _conclude(self, result: ipc.SyncResult) -> Plan | None:
        self._plan_next(result)
        self._warnings = result.warnings
        self._record(result)
        self._pause = _pause(result)
        self.report = SyncReport(
            "ok" if result.status == "unchanged" or result.status == "plan" else result.status,
            self._clock(),
            result.message or None,
            result.expires_s if result.expires_s is not None else self.report.expires_s,
        )
        if result.status == "failed":
            refused = result.kind in ("trust", "model")
            self.settle(SyncOutcome("refused" if refused else "failed", result.message, exit_code=1))
        elif result.status == "paused":
            self.settle(SyncOutcome("waiting", result.message))
        elif result.status == "unchanged" and self._held is None:
            self.settle(SyncOutcome("unchanged", result.message or "Nothing new in the store."))
        return result.plan if result.status == "plan" else None

    def _plan_next(self, result: ipc.SyncResult) -> None:
        """Choose when the next look is due."""
        interval_s, jitter = self._settings.store.poll_interval_s, random.random()  # noqa: S311
        missing_bytes = self.report.step.total_bytes if self.report.step is not None else 0
        if result.status != "failed":
            self._failures, missing_bytes = 0, 0
        elif result.kind == "network" and 0 < missing_bytes < self._missing_bytes:
            # The link breaks again and again, but brings something each time: it is not given up for longer.
            self._failures = 1
        else:
            self._failures += 1
        self._missing_bytes = missing_bytes
        if result.status == "paused":
            wait_s = None if result.until_s is None else result.until_s - self._clock()
            delay_s = resume_delay_s(interval_s, wait_s, jitter)
        else:
            delay_s = sync_delay_s(interval_s, self._failures, jitter, result.retry_after_s)
        self._next_s = time.monotonic() + delay_s

    def _record(self, result: ipc.SyncResult) -> None:
        """Write an event when the store's state changes, not at every look."""
        pause = _pause(result)
        if pause is not None and pause != self._pause:
            self._journal.record("sync_paused", pause.message)
        if result.status != "failed":
            if self._failure:
                self._journal.record("sync_recovered", "The store answers with what can be trusted again.")
            self._failure = ""
        elif result.message != self._failure:
            kind: Literal["refused", "sync_failed"] = (
                "refused" if result.kind in ("trust", "model") else "sync_failed"
            )
            self._journal.record(kind, result.message)
            self._failure = result.message


def _files_by_model(plans: tuple[Plan, ...]) -> dict[str, tuple[str, ...]]:
    models = {model for plan in plans for model in plan.models}
    return {
        model: tuple(dict.fromkeys(version.sha256 for plan in plans for version in plan.of_model(model)))
        for model in models
    }


def _step(progress: ipc.SyncProgress) -> SyncStep:
    done, total, rate = progress.done_bytes, progress.total_bytes, progress.rate_bytes_per_s
    return SyncStep(progress.message, done, total, rate, eta_s(done, total, rate))


def _pause(result: ipc.SyncResult) -> Wait | None:
    return Wait(result.waits_for, result.until_s, result.message) if result.waits_for else None


def _without_result(end: ChildEnd) -> ipc.SyncResult:
    return ipc.SyncResult(status="failed", message=f"The sync process {end.how} before it had a result.")
