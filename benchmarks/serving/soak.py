"""Mixed load for a long time: no request may fail, and no memory may be lost.

    python -m benchmarks.serving.soak [--minutes 30] [--json]

Four clients at a time: remembered and fresh requests, JSON and binary tensors, requests that must be refused,
and a new connection now and then. The PSS of all processes of the agent is read every second.
"""

import argparse
import itertools
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.serving.command import pss_mb, served
from benchmarks.serving.exchanges import answer, connect, post, tensors
from benchmarks.serving.figures import growth
from benchmarks.serving.packaged import MAGIKA, packaged
from benchmarks.serving.rows import Row, as_json, progress, text
from edge_agent.client import Client
from edge_agent.documents.errors import EdgeAgentError, RequestError

ALLOWED_MB = 1.0
CLIENTS = 4
KNOWN = np.random.default_rng(0).integers(0, 257, (64, 1, 2048)).astype(np.int32)


class Load:
    """What one client has done; it has numbers of its own, so that no two of its fresh requests are equal."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.done = self.failed = 0
        self.is_over = False
        self._draw = np.random.default_rng(seed)

    def run(self) -> None:
        """Ask until it is over; a failure is counted, and told once in a while."""
        for number in itertools.count():
            if self.is_over:
                return
            try:
                (self._ask_binary if number % 10 else self._ask_json)()
            # Whatever it is: the load goes on, and the row says that it was there.
            except Exception as error:
                self.failed += 1
                if self.failed < 10:
                    progress(f"{type(error).__name__}: {error}")

    def _ask_binary(self) -> None:
        with Client(self.path) as client:
            for number in range(20):
                fresh = self._draw.integers(0, 257, (1, 2048)).astype(np.int32)
                tokens = KNOWN[number % len(KNOWN)] if number % 2 else fresh
                client.infer("magika", {"bytes": tokens}, parameters={"cache": bool(number % 3)})
                self.done += 1
            self._be_refused(client)

    def _ask_json(self) -> None:
        with connect(self.path) as connection:
            for tokens in KNOWN[:20]:
                answer(connection, post("/v2/models/magika/infer", tensors({"bytes": tokens})))
                self.done += 1

    def _be_refused(self, client: Client) -> None:
        try:
            client.infer("magika", {"bytes": np.zeros((1, 3), np.int32)})
        except RequestError:
            self.done += 1
            return
        raise AssertionError("a request with a wrong shape was answered")


def measure(minutes: float) -> list[Row]:
    progress(f"{minutes:g} minutes of mixed load …")
    with served(packaged(MAGIKA)) as agent:
        _wait(agent.path)
        loads = [Load(agent.path, seed) for seed in range(CLIENTS)]
        threads = [threading.Thread(target=load.run, name="load") for load in loads]
        for thread in threads:
            thread.start()
        samples, end_s = [], time.monotonic() + 60 * minutes
        while time.monotonic() < end_s:
            time.sleep(1)
            samples.append(pss_mb(agent.pid))
        for load in loads:
            load.is_over = True
        for thread in threads:
            thread.join()
    return report(minutes, samples, sum(load.done for load in loads), sum(load.failed for load in loads))


def report(minutes: float, samples: list[float], done: int, failed: int) -> list[Row]:
    """Return the rows; `samples` is the memory in MB over time."""
    name = f"{minutes:g} minutes of mixed load"
    at = {"after a quarter": samples[len(samples) // 4], "at the end": samples[-1], "at most": max(samples)}
    return [
        Row(f"{name}: growth of PSS", growth(samples), "MB", ALLOWED_MB, peers=at, peers_unit="MB"),
        Row(f"{name}: failed", failed, "requests", 0, note=f"of {done + failed:,} requests"),
    ]


def _wait(path: Path) -> None:
    with Client(path) as client:
        while True:
            try:
                client.infer("magika", {"bytes": KNOWN[0]})
            except EdgeAgentError:
                time.sleep(0.05)
            else:
                return


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", action="store_true", help="one JSON list of the rows")
    args = parser.parse_args()
    rows = measure(args.minutes)
    print(json.dumps([as_json(row) for row in rows], indent=1) if args.json else "\n".join(text(rows)))
    return 0 if all(row.met is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
