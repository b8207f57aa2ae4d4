"""Load on an agent, and updates under it, that note what was promised and what went wrong."""

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_agent.client import Client
from edge_agent.documents.errors import DuplicateError, EdgeAgentError, UnavailableError
from edge_agent.store.outcomes_db import read_sums
from support.agent import AgentProcess
from support.fleet import Fleet

MODEL = "m"


def factor_of(version: str) -> float:
    """Return what a version multiplies by."""
    return 1.0 + int(version)


@dataclass(frozen=True)
class Failure:
    """A request that was not answered."""

    began_ns: int
    ended_ns: int
    error: str


class Worker:
    """A thread that does the same thing again until it is stopped; its own errors are noted."""

    def __init__(self, name: str) -> None:
        self.stopping = threading.Event()
        self.broken: list[str] = []
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(90)
        assert not self._thread.is_alive(), self._thread.name

    def step(self) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        while not self.stopping.is_set() and not self.broken:
            try:
                self.step()
            except Exception as error:
                self.broken.append(repr(error))


class Asker(Worker):
    """Asks the model, checks the answer, and tells an outcome of it until that is known to be stored."""

    def __init__(self, socket: Path, number: int, *, tells: bool = True) -> None:
        self._client = Client(socket)
        self._tells = tells
        self.answered_ns: list[int] = []
        """When requests were answered."""
        self.failures: list[Failure] = []
        self.versions = Counter[str]()
        self.told_ns: list[int] = []
        """When outcomes were acknowledged."""
        self.tried = 0
        """Outcomes that were told, whatever became of them."""
        self.gives_up = False
        """Whether an outcome that nobody acknowledges may be left when this stops."""
        super().__init__(f"asker {number}")

    @property
    def told(self) -> int:
        """How many outcomes were acknowledged."""
        return len(self.told_ns)

    def stop(self) -> None:
        super().stop()
        self._client.close()

    def step(self) -> None:
        began_ns = time.monotonic_ns()
        try:
            result = self._client.infer(MODEL, {"x": np.ones((1, 3), np.float32)})
        except EdgeAgentError as error:
            self.failures.append(Failure(began_ns, time.monotonic_ns(), str(error)))
            self.stopping.wait(0.005)
            return
        self.answered_ns.append(time.monotonic_ns())
        self.versions[result.model_version] += 1
        got = round(float(result.outputs["y"][0, 0]), 3)
        assert got == factor_of(result.model_version), (got, result.model_version)
        if self._tells:
            self._tell(result.prediction_id)

    def _tell(self, prediction_id: str) -> None:
        self.tried += 1
        for attempt in range(100_000):
            try:
                self._client.outcome(MODEL, prediction_id, value=1.0)
            except UnavailableError:
                if self.stopping.wait(0.005) and self.gives_up:
                    return
                time.sleep(0.005)
                continue
            except DuplicateError:
                assert attempt > 0, "an outcome that was never told before is a duplicate"
            self.told_ns.append(time.monotonic_ns())
            return


class Updates(Worker):
    """Deploys one version after the other and has the agent take it up; now and then it is rolled back.

    `active` are the serials of which the agent may be at one when this begins.
    """

    def __init__(self, agent: AgentProcess, fleet: Fleet, versions: list[str], active: frozenset[int]) -> None:
        self._agent = agent
        self._fleet = fleet
        self._versions = versions
        self.rounds = 0
        self.activated = 0
        self.rolled_back = 0
        self.history: list[tuple[int, frozenset[int]]] = [(time.monotonic_ns(), active)]
        """From when on which serials may be the active one: two while a change is under way."""
        super().__init__("updates")

    def possible(self, moment_ns: int) -> frozenset[int]:
        """Return the serials of which one was active at a moment, or was becoming it then or later."""
        index = max(i for i, (since_ns, _) in enumerate(self.history) if since_ns <= moment_ns)
        return frozenset[int]().union(*(serials for _, serials in self.history[index:]))

    @property
    def newest(self) -> int:
        """The last serial that was deployed."""
        return max(max(serials) for _, serials in self.history)

    def step(self) -> None:
        self.rounds += 1
        version = self._versions[self.rounds % len(self._versions)]
        self._change_to(self._fleet.deploy(**{MODEL: version}).serial)
        if self.rounds % 4 == 0:
            self._roll_back()

    def _change_to(self, serial: int) -> None:
        self._note(self.history[-1][1] | {serial})
        for _ in range(3):
            with contextlib.suppress(EdgeAgentError, AssertionError, OSError):
                if self._agent.sync()["status"] == "activated":
                    self.activated += 1
                    self._note(frozenset({serial}))
                    return
            if self.stopping.wait(0.2):
                return

    def _roll_back(self) -> None:
        # The one before is known only if all went well; it is among the last ones in any case.
        self._note(frozenset[int]().union(*(serials for _, serials in self.history[-8:])))
        with contextlib.suppress(EdgeAgentError, AssertionError, OSError):
            serial = int(self._agent.ask("rollback")["serial"])
            self.rolled_back += 1
            self._note(frozenset({serial}))

    def _note(self, serials: frozenset[int]) -> None:
        self.history.append((time.monotonic_ns(), serials))


def stored_outcomes(state: Path) -> int:
    """Return how many outcomes the database of a state folder holds."""
    return sum(sums.n for epoch in read_sums(state / "outcomes.db").epochs for sums in epoch.sums)


def first_after(times_ns: list[int], moment_ns: int) -> int | None:
    """Return the first of these times after a moment."""
    return min((time_ns for time_ns in times_ns if time_ns > moment_ns), default=None)
