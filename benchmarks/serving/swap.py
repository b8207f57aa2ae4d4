"""What requests notice while the version of their model is swapped.

    python -m benchmarks.serving.swap [--json] [--swaps N]

A real serving process with Magika, 3 MB of ONNX, and clients that ask it over and over. Again and again it gets
a plan with another version, whose file differs; between the swaps there is as much time without one. Compared
is the 99th percentile of the requests that overlap a swap, from its plan to a moment after its answer, when the
old version is being unloaded, with that of the others. Beside has all memory, in place a budget for one.
"""

import argparse
import hashlib
import importlib.util
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from edge_agent.client import Client
from edge_agent.documents.ipc import Applied, Apply, Configure, FromServing, Metrics
from edge_agent.documents.plan import Plan, VersionPlan, with_id
from edge_agent.documents.settings import (
    CacheSettings,
    EngineSettings,
    HttpSettings,
    MemorySettings,
    OutcomeSettings,
)
from edge_agent.telemetry.health_page import HealthPage

CLIENTS = 2
UNLOAD_S = 0.05
ONE_BYTES = 6_000_000
"""A budget that one version fits into."""
TARGET = 2.0
TOKENS = np.random.default_rng(0).integers(0, 257, (1, 2048)).astype(np.int32)

Spans = list[tuple[float, float]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print rows of name, value, unit, target, met")
    parser.add_argument("--swaps", type=int, default=40)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for how, budget_bytes in (("beside", 0), ("in place", ONE_BYTES)):
        rows += report(how, *measure(budget_bytes, options.swaps))
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            target = "" if row["target"] is None else f"   target <= {row['target']:g}, met: {row['met']}"
            print(f"{row['name']:<58}{row['value']:>10.2f} {row['unit']}{target}")
    return 0 if all(row["met"] is not False for row in rows) else 1


def measure(budget_bytes: int, swaps: int) -> tuple[Spans, Spans, int]:
    """Return the spans of the swaps and of the requests, in seconds, and how many requests failed."""
    requests: Spans = []
    failures: list[str] = []
    end = threading.Event()
    with tempfile.TemporaryDirectory() as name, serving(Path(name), budget_bytes) as (path, apply):
        apply(0)

        def ask() -> None:
            with Client(path) as client:
                while not end.is_set():
                    started_s = time.perf_counter()
                    try:
                        client.infer("magika", {"bytes": TOKENS})
                    except Exception as error:
                        failures.append(str(error))
                    requests.append((started_s, time.perf_counter()))

        threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        swapped: Spans = []
        for number in range(1, swaps + 1):
            started_s = time.perf_counter()
            apply(number % 2)
            time.sleep(UNLOAD_S)
            swapped.append((started_s, time.perf_counter()))
            time.sleep(swapped[-1][1] - started_s)
        end.set()
        for thread in threads:
            thread.join()
    return swapped, [span for span in requests if span[0] >= swapped[0][0]], len(failures)


def report(how: str, swaps: Spans, requests: Spans, failures: int) -> list[dict[str, object]]:
    during: list[float] = []
    quiet: list[float] = []
    for started_s, ended_s in requests:
        overlaps = any(started_s < last_s and ended_s > first_s for first_s, last_s in swaps)
        (during if overlaps else quiet).append((ended_s - started_s) * 1e3)
    p99 = [float(np.percentile(times, 99)) for times in (during, quiet)]
    took_ms = statistics.median((last_s - first_s - UNLOAD_S) * 1e3 for first_s, last_s in swaps)
    return [
        row(f"swap {how}: median duration", took_ms, "ms"),
        row(f"swap {how}: p99 of {len(during)} requests during it", p99[0], "ms"),
        row(f"swap {how}: p99 of {len(quiet)} requests without one", p99[1], "ms"),
        row(
            f"swap {how}: p99 during it as a multiple",
            p99[0] / p99[1],
            "x",
            TARGET if how == "beside" else None,
        ),
        row(f"swap {how}: failed requests", failures, "requests", 0),
    ]


def row(name: str, value: float, unit: str, target: float | None = None) -> dict[str, object]:
    met = None if target is None else bool(value <= target)
    return {"name": name, "value": round(float(value), 2), "unit": unit, "target": target, "met": met}


def versions(folder: Path) -> list[VersionPlan]:
    """Write two versions of Magika whose files differ, and return their plans."""
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        sys.exit("The package magika is not installed; run `make bench`.")
    model = (Path(spec.origin).parent / "models/standard_v3_3/model.onnx").read_bytes()
    plans = []
    for version in ("1", "2"):
        path = folder / f"{version}.onnx"
        # An ONNX file may be followed by a further field: here doc_string, number 6 of ModelProto.
        path.write_bytes(model + bytes((6 << 3 | 2, 1)) + version.encode())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        size_bytes = path.stat().st_size
        plans.append(
            VersionPlan("magika", version, "onnx", "fp32", digest, str(path), size_bytes, inputs=(), outputs=())
        )
    return plans


@contextmanager
def serving(folder: Path, budget_bytes: int) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """Run a serving process; yield its socket's path, and what has one of the versions served."""
    path = folder / "infer.sock"
    plans = versions(folder)
    ours, theirs = socket.socketpair()
    page = HealthPage.create()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(4096)
        command = [sys.executable, "-m", "edge_agent.serving.server", "--channel", str(theirs.fileno())]
        command += ["--health", str(page.fd), "--listen", f"infer:{listener.fileno()}"]
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno(), page.fd, listener.fileno()], stderr=subprocess.DEVNULL
        )
    theirs.close()
    channel = ours.makefile("rwb")

    def tell(message: msgspec.Struct) -> FromServing:
        channel.write(msgspec.json.encode(message) + b"\n")
        channel.flush()
        while True:
            answer: FromServing = msgspec.json.decode(channel.readline(), type=FromServing)
            if not isinstance(answer, Metrics):
                return answer

    def apply(index: int) -> None:
        version = plans[index]
        answer = tell(Apply(plan=with_id(Plan(versions=(version,))), slots={version.key: index}))
        assert isinstance(answer, Applied), answer

    tell(configuration(folder, budget_bytes))
    try:
        yield path, apply
    finally:
        process.kill()
        process.wait()
        page.close()


def configuration(folder: Path, budget_bytes: int) -> Configure:
    return Configure(
        device="bench",
        http=HttpSettings(),
        engines=EngineSettings(),
        cache=CacheSettings(max_bytes=0),
        outcomes=OutcomeSettings(),
        outcomes_db=str(folder / "outcomes.db"),
        secret=bytes(32).hex(),
        memory=MemorySettings(budget_bytes=budget_bytes),
    )


if __name__ == "__main__":
    sys.exit(main())
