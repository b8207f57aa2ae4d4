"""Apps that tell what came of each prediction: was the label right by the file's extension?"""

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self

from edge_agent.client import Client
from edge_agent.documents.errors import EdgeAgentError
from examples.demo.files import Sample
from examples.demo.traffic import THREADS

BATCH = 25
"""Outcomes that an app tells at once."""


@dataclass
class Told:
    """What was sent and told, by arm, and what the cache did, as the answers say."""

    predictions: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    """Outcomes that the agent acknowledged."""
    right: Counter[str] = field(default_factory=Counter)
    cache: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds of each request, by what the cache did."""
    labels: dict[tuple[Path, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    """The labels that a version gave to a file."""
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Told") -> None:
        """Count what another one counted too."""
        for mine, others in (
            (self.predictions, other.predictions),
            (self.outcomes, other.outcomes),
            (self.right, other.right),
            (self.cache, other.cache),
        ):
            mine.update(others)
        for result, seconds in other.seconds.items():
            self.seconds[result] += seconds
        for key, labels in other.labels.items():
            self.labels[key] |= labels
        self.failures += other.failures

    def median_ms(self, result: str) -> float:
        """Return the median time of requests with this result of the cache, in milliseconds."""
        return 1e3 * sorted(self.seconds[result])[len(self.seconds[result]) // 2]


class Apps:
    """Four threads that classify files and tell outcomes; in a `with` block they do so without a pause."""

    def __init__(self, socket: Path, samples: Sequence[Sample], labels: Sequence[str]) -> None:
        self._socket = socket
        self._samples = samples
        self._labels = labels
        self._end = threading.Event()
        self._tallies: list[Told] = []
        self._threads: list[threading.Thread] = []

    def once(self) -> Told:
        """Send every file once; return what was counted."""
        self._start([self._samples[start::THREADS] for start in range(THREADS)], endless=False)
        return self._join()

    def __enter__(self) -> Self:
        self._end.clear()
        self._start([self._samples] * THREADS, endless=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._join()

    @property
    def outcomes(self) -> int:
        """How many outcomes the agent has acknowledged so far in this block."""
        return sum(tally.outcomes.total() for tally in self._tallies)

    def counted(self) -> Told:
        """Return the sum over all threads, once they have ended."""
        total = Told()
        for tally in self._tallies:
            total.add(tally)
        return total

    def _start(self, parts: Sequence[Sequence[Sample]], *, endless: bool) -> None:
        self._tallies = [Told() for _ in parts]
        self._threads = [
            threading.Thread(target=self._work, args=(part, tally, number, endless), name=f"app-{number}")
            for number, (part, tally) in enumerate(zip(parts, self._tallies, strict=True))
        ]
        for thread in self._threads:
            thread.start()

    def _join(self) -> Told:
        for thread in self._threads:
            thread.join()
        return self.counted()

    def _work(self, part: Sequence[Sample], tally: Told, number: int, endless: bool) -> None:
        dice = random.Random(number)
        with Client(str(self._socket)) as client:
            try:
                if not endless:
                    for start in range(0, len(part), BATCH):
                        self._send(client, part[start : start + BATCH], tally)
                while endless and not self._end.is_set():
                    self._send(client, dice.sample(part, min(BATCH, len(part))), tally)
            except EdgeAgentError as error:
                tally.failures.append(str(error))

    def _send(self, client: Client, samples: Sequence[Sample], tally: Told) -> None:
        """Classify some files, then tell for each whether the label was right."""
        told: list[tuple[str, str, bool]] = []
        for sample in samples:
            started = perf_counter()
            result = client.infer("magika", sample.features)
            seconds = perf_counter() - started
            (scores,) = result.outputs.values()
            label = int(scores[0].argmax())
            arm, cache = str(result.arm), str(result.cache)
            tally.predictions[arm] += 1
            tally.cache[cache] += 1
            tally.seconds[cache].append(seconds)
            tally.labels[sample.path, result.model_version].add(label)
            told.append((result.prediction_id, arm, self._labels[label] in sample.expected))
        answer = client.outcomes("magika", [(id_, {"correct": float(right)}) for id_, _, right in told])
        tally.failures += [refusal.error for refusal in answer.refused]
        if answer.accepted == len(told):
            for _, arm, right in told:
                tally.outcomes[arm] += 1
                tally.right[arm] += right
