"""How many outcomes serving stores, how soon it says so, and what that costs the disk.

    python -m benchmarks.outcomes [--json] [--seconds N]

A real serving process with the default settings takes outcomes by HTTP on a Unix socket; nothing is counted
before it was acknowledged. What is written are the bytes that /proc/PID/io says the process has sent to the
disk: whole pages of 4 KiB, the file system's own journal comes on top. The database holds 20,000 outcomes
already, of two arms and 64 buckets, and predictions are up to 25 minutes old. Ten outcomes a second are five
for each write at the default commit interval. What is written rarely has its share only in a run of
some thousand outcomes, for which both the pace and the interval are 50 times faster.
"""

import argparse
import asyncio
import contextlib
import json
import random
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge_agent.client import AsyncClient
from edge_agent.documents.ipc import Apply, Configure
from edge_agent.documents.plan import Plan, with_id
from edge_agent.documents.settings import CacheSettings, EngineSettings, HttpSettings, OutcomeSettings
from edge_agent.policy.prediction_id import Prediction, encode
from edge_agent.store.outcomes_db import FOLD_ROWS
from edge_agent.telemetry.health_page import HealthPage

RATE_TARGET = 2000.0
WRITTEN_TARGET_BYTES = 2048.0
CONNECTIONS = 64
HELD = 20_000
AGE_S = 1500
PACE = 50
LONG_RUN = 3 * FOLD_ROWS
SECRET = secrets.token_bytes(32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print rows of name, value, unit, target, met")
    parser.add_argument("--seconds", type=float, default=16.0, help="how long outcomes flow for the latency")
    options = parser.parse_args()
    rows = asyncio.run(measure(options.seconds))
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            target = "" if row["target"] is None else f"   target {row['target']:g}, met: {row['met']}"
            print(f"{row['name']:<66}{row['value']:>10.1f} {row['unit']}{target}")
    return 0 if all(row["met"] is not False for row in rows) else 1


async def measure(seconds: float) -> list[dict[str, object]]:
    default_s = OutcomeSettings().commit_interval_s
    rows = []
    with serving(default_s) as (path, _):
        rate = await flood(path, seconds / 4, per_request=1)
        rows.append(least("outcomes: acknowledged, one a request, 64 connections", rate))
        rate = await flood(path, seconds / 4, per_request=100, connections=4)
        rows.append(least("outcomes: acknowledged, 100 a request, 4 connections", rate))
    _, latencies = await drip(default_s, 10.0, int(10 * seconds), values=1)
    rows.append(
        row("outcomes: p50 until it is acknowledged, 10 a second", statistics.median(latencies) * 1000, "ms")
    )
    for values in (1, 2):
        written, _ = await drip(default_s / PACE, 10.0 * PACE, LONG_RUN, values)
        name = f"outcomes: written for each, 10 a second, {values} value{'s' * (values > 1)}"
        rows.append(row(name, written, "bytes", WRITTEN_TARGET_BYTES))
    return rows


def row(name: str, value: float, unit: str, target: float | None = None) -> dict[str, object]:
    met = None if target is None else value <= target
    return {"name": name, "value": round(value, 1), "unit": unit, "target": target, "met": met}


def least(name: str, value: float) -> dict[str, object]:
    return row(name, value, "1/s") | {"target": RATE_TARGET, "met": value >= RATE_TARGET}


def prediction_id() -> str:
    made_s = int(time.time()) - random.randrange(AGE_S)
    arm = random.choice(("float", "int8"))
    prediction = Prediction("m", "e", 1, arm, random.randrange(64), made_s, secrets.token_bytes(8))
    return encode(SECRET, prediction)


async def flood(path: Path, seconds: float, per_request: int, connections: int = CONNECTIONS) -> float:
    """Tell outcomes as fast as they are acknowledged; return how many a second that is."""
    acknowledged = 0
    started_s = time.perf_counter()

    async def tell() -> None:
        nonlocal acknowledged
        async with AsyncClient(path) as client:
            while time.perf_counter() < started_s + seconds:
                told = await client.outcomes("m", [(prediction_id(), {"x": 1.0}) for _ in range(per_request)])
                acknowledged += told.accepted

    await asyncio.gather(*(tell() for _ in range(connections)))
    return acknowledged / (time.perf_counter() - started_s)


async def drip(interval_s: float, rate: float, count: int, values: int) -> tuple[float, list[float]]:
    """Tell outcomes at a steady rate; return the bytes written for each and the seconds that each took."""
    latencies: list[float] = []
    told = {f"metric{number}": 1.0 for number in range(values)}

    async def tell(client: AsyncClient) -> None:
        started_s = time.perf_counter()
        await client.outcome("m", prediction_id(), **told)
        latencies.append(time.perf_counter() - started_s)

    with serving(interval_s) as (path, pid):
        async with AsyncClient(path) as client:
            for _ in range(HELD // 1000):
                await client.outcomes("m", [(prediction_id(), told) for _ in range(1000)])
            written = written_bytes(pid)
            started_s = time.perf_counter()
            async with asyncio.TaskGroup() as tasks:
                for number in range(count):
                    await asyncio.sleep(max(0.0, started_s + number / rate - time.perf_counter()))
                    tasks.create_task(tell(client))
            return (written_bytes(pid) - written) / len(latencies), latencies


def written_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


@contextmanager
def serving(interval_s: float) -> Iterator[tuple[Path, int]]:
    """Run a serving process, as the supervisor does; yield its socket's path and its process id."""
    # In the working directory, as a temporary folder may be in memory, where writing costs nothing.
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as name, contextlib.ExitStack() as stack:
        path = Path(name) / "infer.sock"
        ours, theirs = socket.socketpair()
        page = HealthPage.create()
        stack.callback(page.close)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()
        channel = stack.enter_context(stack.enter_context(ours).makefile("rwb"))
        descriptors = [theirs.fileno(), page.fd, listener.fileno()]
        command = [sys.executable, "-m", "edge_agent.serving.server", "--channel", str(descriptors[0])]
        command += ["--health", str(descriptors[1]), "--listen", f"infer:{descriptors[2]}"]
        process = subprocess.Popen(command, pass_fds=descriptors, stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        theirs.close()
        configure = Configure(
            device="bench",
            http=HttpSettings(),
            engines=EngineSettings(threads=1),
            cache=CacheSettings(),
            outcomes=OutcomeSettings(commit_interval_s=interval_s),
            outcomes_db=str(Path(name).absolute() / "outcomes.db"),
            secret=SECRET.hex(),
        )
        for message in (configure, Apply(plan=with_id(Plan()), slots={})):
            channel.write(msgspec.json.encode(message) + b"\n")
            channel.flush()
            channel.readline()
        yield path, process.pid


if __name__ == "__main__":
    sys.exit(main())
