"""`edge-fleet collect` as a process, and what its database holds."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_fleet.fleet_db import FleetDb


class Collector:
    """A database, and the broker that it is filled from."""

    def __init__(self, db: Path, broker_url: str) -> None:
        self.db = db
        self.broker = f"--mqtt={broker_url}"

    @contextmanager
    def collecting(self) -> Iterator["subprocess.Popen[str]"]:
        """Run it, once it is connected, until the block ends; kill it then if it still runs."""
        process = subprocess.Popen(
            [Path(sys.executable).parent / "edge-fleet", "collect", self.broker, "--db", self.db, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            while not json.loads(process.stdout.readline())["connected"]:
                pass
            yield process
        finally:
            process.kill()
            process.communicate()

    def counts(self) -> dict[str, int]:
        """Return how much is stored."""
        with FleetDb.read(self.db) as db:
            return db.counts()
