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
        self.told = 0
        """Outcomes that were acknowledged."""
        super().__init__(f"asker {number}")

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
        for attempt in range(100_000):
            try:
                self._client.outcome(MODEL, prediction_id, value=1.0)
            except UnavailableError:
                if self.stopping.wait(0.005) and attempt > 1000:
                    return
                continue
            except DuplicateError:
                assert attempt > 0, "an outcome that was never told before is a duplicate"
            self.told += 1
            return


class Updates(Worker):
    """Deploys one version after the other and has the agent take it up; now and then it is rolled back."""

    def __init__(self, agent: AgentProcess, fleet: Fleet, versions: list[str], *, pause_s: float = 0.0) -> None:
        self._agent = agent
        self._fleet = fleet
        self._versions = versions
        self._pause_s = pause_s
        self.rounds = 0
        self.serial = 0
        """The newest deployment that is known to be active, or was rolled back from."""
        self.activated = 0
        super().__init__("updates")

    def step(self) -> None:
        self.rounds += 1
        deployment = self._fleet.deploy(**{MODEL: self._versions[self.rounds % len(self._versions)]})
        for _ in range(3):
            with contextlib.suppress(EdgeAgentError, AssertionError, OSError):
                if self._agent.sync()["status"] == "activated":
                    self.activated += 1
                    self.serial = deployment.serial
                    break
            if self.stopping.wait(0.2):
                return
        if self.rounds % 4 == 0:
            with contextlib.suppress(EdgeAgentError, AssertionError, OSError):
                self._agent.ask("rollback")
        self.stopping.wait(self._pause_s)


def stored_outcomes(state: Path) -> int:
    """Return how many outcomes the database of a state folder holds."""
    return sum(sums.n for epoch in read_sums(state / "outcomes.db").epochs for sums in epoch.sums)


def first_after(times_ns: list[int], moment_ns: int) -> int | None:
    """Return the first of these times after a moment."""
    return min((time_ns for time_ns in times_ns if time_ns > moment_ns), default=None)
