"""Serving is killed at random moments while outcomes flow."""

import random
import threading
from pathlib import Path

import pytest

from edge_agent.documents.errors import DuplicateError, UnavailableError
from support.agent import wait_until
from support.outcomes import OutcomeServing, prediction_id

KILLS = 30
SENDERS = 4


class Sender:
    """Tells one outcome after the other, each until it is known to be stored."""

    def __init__(self, serving: OutcomeServing, number: int) -> None:
        self._serving = serving
        self._number = number
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.stored = 0
        self.duplicates = 0
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with self._serving.client() as client:
            while not self._stop.is_set():
                text = prediction_id(self._number << 32 | self.stored, bucket=self.stored % 64)
                attempts = 0
                while True:
                    attempts += 1
                    try:
                        client.outcome("m", text, x=self.stored)
                    except UnavailableError:
                        continue
                    except DuplicateError:
                        assert attempts > 1, "an outcome that was never told before is a duplicate"
                        self.duplicates += 1
                    break
                self.stored += 1


def wait_for_more(senders: list[Sender], count: int) -> None:
    goal = sum(sender.stored for sender in senders) + count
    wait_until(lambda: sum(sender.stored for sender in senders) >= goal, "more outcomes are stored")


@pytest.mark.slow
def test_every_acknowledged_outcome_is_in_the_sums_exactly_once(tmp_path: Path) -> None:
    rng = random.Random(7)
    with OutcomeServing(tmp_path, interval_s=0.0) as serving:
        senders = [Sender(serving, number) for number in range(SENDERS)]
        try:
            for _ in range(KILLS):
                wait_for_more(senders, rng.randint(1, 60))
                serving.kill()
                serving.start()
        finally:
            for sender in senders:
                sender.stop()
        stored = [sender.stored for sender in senders]
        assert serving.totals() == {"x": (sum(stored), float(sum(n * (n - 1) // 2 for n in stored)))}
