"""From the hint of a new deployment to a device that serves it, over a real broker.

    python -m benchmarks.update_hint [--json]

The same fleet as in benchmarks.footprint, with mosquitto between: the seconds from the publishing of the hint,
as `edge-fleet notify` does it, to the first answer of the new 3 MB version. It hears nothing else of it.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.footprint import WAIT_LIMIT_S, Fleet, Row, _wait, served_fleet, tell
from edge_agent.documents.topics import Topics
from edge_fleet.broker_options import BrokerSettings
from edge_fleet.notify import notify
from edge_fleet.repository import Repository

ROUNDS = 5
CHECKOUT = Path(__file__).resolve().parent.parent


@contextmanager
def broker(folder: Path) -> Iterator[int]:
    """Run mosquitto; yield its port."""
    path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:{CHECKOUT / '.cache/mosquitto'}"
    program = shutil.which("mosquitto", path=path)
    if program is None:
        sys.exit("mosquitto is not installed; run scripts/fetch-mosquitto.")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([program, "-c", config], stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(WAIT_LIMIT_S)


def measure(fleet: Fleet, port: int) -> Iterator[Row]:
    with fleet.config.open("a") as config:
        config.write(f'poll_interval_s = 86400\n[mqtt]\nurl = "mqtt://127.0.0.1:{port}"\n')
    fleet.publish("1")
    with fleet.agent():
        _wait(fleet.socket.exists)
        fleet.sync()
        _wait(lambda: _is_linked(fleet))
        seconds = [_update(fleet, str(version), port) for version in range(2, 2 + ROUNDS)]
    yield Row("hint to serving a new 3 MB version (median)", statistics.median(seconds), "s", 3)


def _is_linked(fleet: Fleet) -> bool:
    status = json.loads(fleet.command("edge-agent", "status", "--config", fleet.config, "--json"))
    state: str = status["link"]["state"]
    return state == "up"


def _update(fleet: Fleet, version: str, port: int) -> float:
    fleet.publish(version)
    contents = Repository(fleet.folder / "store").read()
    settings = BrokerSettings("127.0.0.1", port, False, Topics("edge/v1", "default"))
    started = time.perf_counter()
    notify(contents, "default", settings, spread_s=0.0)
    _wait(lambda: fleet.version_that_answers() == version)
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document with all rows")
    args = parser.parse_args()
    with served_fleet() as fleet, broker(fleet.folder) as port:
        rows = list(measure(fleet, port))
    return tell(rows, args.json)


if __name__ == "__main__":
    sys.exit(main())
