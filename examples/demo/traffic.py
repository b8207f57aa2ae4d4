"""Apps on the device: threads that send requests to the agent by its Python client and keep count."""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_agent.client import Client
from edge_agent.documents.errors import EdgeAgentError
from examples.demo.files import Sample

THREADS = 4


@dataclass
class Tally:
    """What came of the requests: answers by version, failures, and seconds each took."""

    by_version: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """How many requests were sent."""
        return self.by_version.total() + len(self.failures)

    def add(self, other: "Tally") -> None:
        """Count another tally's requests too."""
        self.by_version += other.by_version
        self.failures += other.failures
        self.seconds += other.seconds

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile of the times, in milliseconds."""
        return 1e3 * sorted(self.seconds)[min(len(self.seconds) - 1, int(len(self.seconds) * percent / 100))]


@dataclass(frozen=True)
class Answer:
    """Index of the most likely label, and the version that said so."""

    label: int
    version: str


def classify(socket: Path, samples: Sequence[Sample]) -> tuple[list[Answer], Tally]:
    """Send each sample once, from four threads; return the answers in their order. Failures are raised."""
    tally = Tally()
    lock = threading.Lock()

    def ask(part: Sequence[Sample]) -> list[Answer]:
        mine = Tally()
        with Client(str(socket)) as client:
            answers = [_ask(client, sample, mine) for sample in part]
        with lock:
            tally.add(mine)
        return answers

    parts = [samples[start::THREADS] for start in range(THREADS)]
    with ThreadPoolExecutor(THREADS, "app") as pool:
        by_part = list(pool.map(ask, parts))
    return [by_part[index % THREADS][index // THREADS] for index in range(len(samples))], tally


class Load:
    """While the block runs, four threads send requests without a pause; failures are counted, not raised."""

    def __init__(self, socket: Path, samples: Sequence[Sample]) -> None:
        self._socket = socket
        self._samples = samples
        self._end = threading.Event()
        self._tallies = [Tally() for _ in range(THREADS)]
        self._threads = [
            threading.Thread(target=self._send, args=(number,), name=f"load-{number}")
            for number in range(THREADS)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def answered_by(self, version: str) -> int:
        """Return how many answers came from a version so far."""
        return sum(tally.by_version[version] for tally in self._tallies)

    def tally(self) -> Tally:
        """Return the sum over all threads, once the block has ended."""
        total = Tally()
        for tally in self._tallies:
            total.add(tally)
        return total

    def _send(self, number: int) -> None:
        tally, dice = self._tallies[number], random.Random(number)
        with Client(str(self._socket)) as client:
            while not self._end.is_set():
                try:
                    _ask(client, dice.choice(self._samples), tally)
                except EdgeAgentError as error:
                    tally.failures.append(str(error))


def _ask(client: Client, sample: Sample, tally: Tally) -> Answer:
    started = time.perf_counter()
    # These are about running the model; what is remembered has a chapter of its own.
    result = client.infer("magika", sample.features, parameters={"cache": False})
    tally.seconds.append(time.perf_counter() - started)
    version = result.model_version
    tally.by_version[version] += 1
    (scores,) = result.outputs.values()
    return Answer(int(scores[0].argmax()), version)
