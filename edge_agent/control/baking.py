"""The trial of a plan that has just been activated: watched by its guardrails, ended by time or by a breach."""

import dataclasses
import time
from collections.abc import Callable
from typing import Final

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.selection import Selection
from edge_agent.control.supervise import ServingEnded, ServingProcess
from edge_agent.documents.messages import BakeReport, BakingVersion
from edge_agent.documents.plan import Plan, VersionPlan
from edge_agent.policy import guardrails, reconcile
from edge_agent.policy.guardrails import Bake, Figures
from edge_agent.policy.run_times import quantile_ns

STEP_S: Final = 1.0
NOTE_S: Final = 30.0
"""How often the figures of a trial are written down: what a power cut loses of it."""


class Baking:
    """Owns the state's `bake`: the figures in memory are newer than those on disk."""

    def __init__(
        self,
        state: DurableState,
        journal: Journal,
        serving: ServingProcess,
        selection: Selection,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._journal = journal
        self._serving = serving
        self._selection = selection
        self._clock = clock
        self._bake = state.value.bake
        self._looked: dict[str, Figures] = {}
        self._looked_s: float | None = None
        self._noted_s = clock()

    @property
    def versions(self) -> tuple[str, ...]:
        """Keys of the versions on trial."""
        return self._bake.versions if self._bake is not None else ()

    def begin(self, plan: Plan) -> Bake | None:
        """Return the trial of a plan that serving has just applied, to be stored with it as the current one.

        Its versions are held against those that served before it and were not on trial themselves. There is no
        trial without such, nor of a plan without versions: so what is gone back to is on none.
        """
        good, before = self._good(), self._bake.before if self._bake is not None else {}
        fresh = tuple(version.key for version in reconcile.fresh(plan, good))
        bake = None
        if fresh and plan.bake_s and good.versions:
            before = before or {model: self._figures(good.of_model(model)) for model in good.models}
            bake = Bake(fresh, plan.bake_s, before=before)
        self._start(bake)
        return bake

    def _good(self) -> Plan:
        """Return the last plan that is on trial no more."""
        state = self._state.value
        return self._selection.deployed if state.bake is None else state.previous or Plan()

    def step(self) -> None:
        """Look at what the versions on trial have done, and act on it."""
        if self._bake is None or not self._is_served():
            self._looked_s = None
            return
        bake = self._bake = self._look(self._bake)
        if (found := self._worst(bake)) is not None:
            self.give_up(*found)
        elif bake.baked_s >= bake.bake_s:
            self._keep(bake)
        elif self._clock() - self._noted_s >= NOTE_S:
            self.note()

    def ended(self, end: ServingEnded) -> None:
        """Give the plan up if the serving process came to its end by a version on trial, or by nobody known."""
        if self._bake is None or not end.by_itself:
            return
        guilty = [key for key in self._bake.versions if key in end.suspects]
        if guilty or not end.suspects:
            key = guilty[0] if guilty else self._bake.versions[0]
            self.give_up(key, f"the serving process {end.how}")

    def give_up(self, key: str, reason: str) -> None:
        """Go back to the plan before, which is written down before anything is done about it."""
        state = self._state.value
        left, back = state.current, state.previous
        version = next(version for version in left.versions if version.key == key)
        sentence = f"{version.model} {version.version} breached its guardrails: {reason}."
        on_trial = self.versions
        self._start(None)
        if back is None:
            self._state.change(bake=None)
        else:
            self._state.change(
                current=back,
                previous=left,
                fallback=reconcile.gone_back(back, state.fallback, on_trial),
                held=reconcile.identity(left),
                held_reason=sentence,
                bake=None,
                untold=f"Back from serial {left.serial}, which is held, to {back.serial}: {sentence}",
            )
        self._journal.record(
            "breached", sentence, model=version.model, version=version.version, serial=left.serial
        )

    def note(self) -> None:
        """Write the figures down."""
        self._noted_s = self._clock()
        if self._bake is not None and self._bake != self._state.value.bake:
            self._state.change(bake=self._bake)

    def tell(self, plan_id: str) -> None:
        """Tell that the plan that was gone back to serves, once serving has applied it."""
        state = self._state.value
        if state.untold is not None and plan_id == self._selection.wanted.id:
            self._journal.record("rolled_back", state.untold, serial=state.current.serial)
            self._state.change(untold=None)

    @property
    def report(self) -> BakeReport | None:
        """How the trial goes, None without one."""
        bake, plan = self._bake, self._state.value.current
        if bake is None:
            return None
        versions = (self._report(bake, version) for version in plan.versions if version.key in bake.versions)
        return BakeReport(plan.serial, round(max(0.0, bake.bake_s - bake.baked_s), 1), tuple(versions))

    # --- looking -----------------------------------------------------------------------------------------

    def _start(self, bake: Bake | None) -> None:
        self._bake, self._looked_s, self._noted_s = bake, None, self._clock()
        self._looked = {key: self._serving.figures(key) for key in bake.versions} if bake is not None else {}

    def _is_served(self) -> bool:
        plan = self._serving.plan
        return plan is not None and not self._serving.applying and plan.id == self._selection.wanted.id

    def _look(self, bake: Bake) -> Bake:
        """Add what was done since the last look."""
        now_s, seen = self._clock(), dict(bake.seen)
        for key in bake.versions:
            now = self._serving.figures(key)
            done = guardrails.since(now, self._looked.get(key, Figures()))
            seen[key] = guardrails.plus(seen.get(key, Figures()), done)
            self._looked[key] = now
        passed_s = now_s - self._looked_s if self._looked_s is not None else 0.0
        self._looked_s = now_s
        return dataclasses.replace(bake, baked_s=bake.baked_s + passed_s, seen=seen)

    def _worst(self, bake: Bake) -> tuple[str, str] | None:
        plan = self._state.value.current
        models = {version.key: version.model for version in plan.versions}
        return guardrails.worst(bake, models, {model: plan.policy(model).guardrails for model in plan.models})

    def _figures(self, versions: tuple[VersionPlan, ...]) -> Figures:
        total = Figures()
        for version in versions:
            total = guardrails.plus(total, self._serving.figures(version.key))
        return total

    def _report(self, bake: Bake, version: VersionPlan) -> BakingVersion:
        limits = self._state.value.current.policy(version.model).guardrails
        seen, before = bake.seen.get(version.key, Figures()), bake.before.get(version.model, Figures())
        max_p99_ns = guardrails.slowest_ns(before, limits)
        return BakingVersion(
            model=version.model,
            version=version.version,
            requests=seen.requests,
            error_rate=round(seen.error_rate, 4),
            max_error_rate=guardrails.allowed_errors(before, limits),
            p99_s=quantile_ns(seen.runs, 1 - guardrails.TAIL) / 1e9 if seen.runs else None,
            max_p99_s=max_p99_ns / 1e9 if max_p99_ns is not None else None,
        )

    # --- acting ------------------------------------------------------------------------------------------

    def _keep(self, bake: Bake) -> None:
        self._start(None)
        state = self._state.value
        self._state.change(bake=None)
        requests = sum(figures.requests for figures in bake.seen.values())
        message = (
            f"Serial {state.current.serial} has kept its guardrails for {bake.bake_s:g} s, {requests} requests."
        )
        self._journal.record("baked", message, serial=state.current.serial)
