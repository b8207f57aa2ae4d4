"""Mixed load for a long time: no request may fail, and no memory may be lost.

    python -m benchmarks.serving.soak [--minutes 30] [--json]

Four clients at a time: cached and fresh requests, JSON and binary tensors, bad requests, and a new connection
now and then. The PSS of all processes is read every second.
"""

import argparse
import itertools
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.serving.exchanges import answer, connect, post, tensors
from benchmarks.serving.figures import growth
from benchmarks.serving.process import TOKENS, pss_mb, served
from benchmarks.serving.rows import Row, as_json, text
from edge_agent.client import Client
from edge_agent.documents.errors import RequestError

ALLOWED_MB = 1.0


class Load:
    """What the clients have done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = self.failed = 0
        self.is_over = False

    def run(self, seed: int) -> None:
        """Ask until it is over."""
        for number in itertools.count(seed):
            if self.is_over:
                return
            try:
                self._ask(number)
                self.done += 1
            except Exception as error:
                self.failed += 1
                print(f"{type(error).__name__}: {error}", file=sys.stderr)

    def _ask(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        with Client(self.path) as client:
            for number in range(200):
                tokens = (
                    draw.integers(0, 256, (1, 2048)).astype(np.int32) if number % 2 else TOKENS[number % 64]
                )
                client.infer("magika", {"bytes": tokens}, parameters={"cache": bool(number % 3)})
                if number % 20 == 0:
                    self._refused(client)
        with connect(self.path) as connection:
            for number in range(20):
                answer(connection, post("/v2/models/magika/infer", tensors({"bytes": TOKENS[number]})))

    def _refused(self, client: Client) -> None:
        try:
            client.infer("magika", {"bytes": np.zeros((1, 3), np.int32)})
        except RequestError:
            return
        raise AssertionError("a bad request was answered")


def measure(minutes: float) -> list[Row]:
    with served() as agent:
        load = Load(agent.path)
        threads = [threading.Thread(target=load.run, args=(seed * 1_000_000,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        samples, end_s = [], time.monotonic() + 60 * minutes
        while time.monotonic() < end_s:
            time.sleep(1)
            samples.append(pss_mb(agent.pid))
        load.is_over = True
        for thread in threads:
            thread.join()
    name = f"{minutes:g} minutes of mixed load, {load.done * 220} requests"
    return [
        Row(
            f"{name}: growth of PSS",
            growth(samples),
            "MB",
            ALLOWED_MB,
            False,
            {"at the end": samples[-1]},
            "MB",
        ),
        Row(f"{name}: failed", load.failed, "requests", 0),
    ]


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
