"""Memory, start and update of a whole agent with Magika, against their targets.

    python -m benchmarks.footprint [--json]

Everything is real: `edge-convert`, `edge-fleet`, `edge-agent run` on a store that is served on loopback. Memory
is the proportional set size (PSS) of the supervisor and serving together, after 10,000 requests that run it and
the seconds until serving has given back what they left. It is measured first, by a process that has not loaded
numpy or a runtime itself: pages that others share count less.
"""

import argparse
import dataclasses
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


WAIT_LIMIT_S = 60.0
ROUNDS = 5
REQUESTS = 10_000
REST_S = 6.0
"""Serving gives back what runs leave every five seconds in which there were any."""
SENDER = """
import sys, numpy
from edge_agent.client import Client
tokens = numpy.zeros((1, 2048), numpy.int32)
with Client(sys.argv[1]) as client:
    for _ in range(int(sys.argv[2])):
        client.infer("magika", tokens, parameters={"cache": False})
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure against its target, which it must not exceed."""

    name: str
    value: float
    unit: str
    target: float

    @property
    def met(self) -> bool:
        return self.value <= self.target


class Fleet:
    """A store in a folder, served on loopback, and one device that pulls from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.socket = folder / "run/infer.sock"

    def command(self, program: str, *words: str | Path) -> str:
        path = Path(sys.executable).with_name(program)
        done = subprocess.run(
            [path, *words],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            capture_output=True,
        )
        if done.returncode:
            sys.exit(f"{program} {' '.join(map(str, words))} failed: {done.stderr}{done.stdout}")
        return done.stdout

    def publish(self, version: str) -> None:
        """Build, publish and deploy a version of Magika whose file differs from every other version's."""
        # An ONNX file may be followed by a further field: here doc_string, number 6 of ModelProto.
        note = f"version {version}".encode()
        content = _magika().read_bytes() + bytes((6 << 3 | 2, len(note))) + note
        (self.folder / "magika.onnx").write_bytes(content)
        self.command(
            "edge-convert", "build", "magika.onnx", "--name", "magika", "--version", version,
            "--precision", "fp32", "--range", "bytes=0:256", "--out", "packages",
        )  # fmt: skip
        self.command("edge-fleet", "publish", "store", f"packages/magika/{version}", "--keys", "keys")
        self.command("edge-fleet", "deploy", "store", "--keys", "keys", "--model", f"magika={version}")

    @contextmanager
    def agent(self) -> Iterator["subprocess.Popen[bytes]"]:
        program = Path(sys.executable).with_name("edge-agent")
        with (self.folder / "agent.log").open("ab") as log:
            process = subprocess.Popen(
                [program, "run", "--config", self.config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(WAIT_LIMIT_S)

    def sync(self) -> None:
        self.command("edge-agent", "sync", "--config", self.config)

    def version_that_answers(self) -> str | None:
        """Send one request; None while nothing answers."""
        from edge_agent.client import Client
        from edge_agent.documents.errors import EdgeAgentError

        try:
            with Client(str(self.socket)) as client:
                return client.infer("magika", _tokens()).model_version
        except EdgeAgentError:
            return None


def measure(fleet: Fleet) -> Iterator[Row]:
    fleet.publish("1")
    with fleet.agent() as process:
        _wait(lambda: fleet.socket.exists())
        fleet.sync()
        subprocess.run([sys.executable, "-c", SENDER, fleet.socket, str(REQUESTS)], check=True)
        time.sleep(REST_S)
        yield Row("memory of all processes with Magika loaded (PSS)", _pss_mb(process.pid), "MB", 95)
    yield Row(
        "exec to first answer (median)", statistics.median(_start_s(fleet) for _ in range(ROUNDS)), "s", 2
    )
    with fleet.agent():
        _wait(lambda: fleet.version_that_answers() == "1")
        updates = [_update(fleet, str(version)) for version in range(2, 2 + ROUNDS)]
    yield Row("sync to serving a new 3 MB version (median)", statistics.median(s for s, _ in updates), "s", 3)
    yield Row("failed requests during the updates", sum(failures for _, failures in updates), "requests", 0)


def _start_s(fleet: Fleet) -> float:
    started = time.perf_counter()
    with fleet.agent():
        _wait(lambda: fleet.version_that_answers() is not None)
        return time.perf_counter() - started


def _update(fleet: Fleet, version: str) -> tuple[float, int]:
    """Return the seconds from starting `edge-agent sync` to the first answer of the version, and failures."""
    from edge_agent.client import Client
    from edge_agent.documents.errors import EdgeAgentError

    fleet.publish(version)
    answered = threading.Event()
    end = threading.Event()
    failures: list[str] = []
    tokens = _tokens()

    def load() -> None:
        with Client(str(fleet.socket)) as client:
            while not end.is_set():
                try:
                    if client.infer("magika", tokens).model_version == version:
                        answered.set()
                except EdgeAgentError as error:
                    failures.append(str(error))

    thread = threading.Thread(target=load, name="load")
    thread.start()
    try:
        started = time.perf_counter()
        syncing = threading.Thread(target=fleet.sync, name="sync")
        syncing.start()
        if not answered.wait(WAIT_LIMIT_S):
            sys.exit(f"Version {version} did not come to serve; see {fleet.folder}/agent.log.")
        seconds = time.perf_counter() - started
        syncing.join()
    finally:
        end.set()
        thread.join()
    return seconds, len(failures)


def _pss_mb(root: int) -> float:
    """Return the proportional set size of a process and its descendants, in MB."""
    total_kb = 0
    pids = [root]
    while pids:
        pid = pids.pop()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total_kb += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        for task in Path(f"/proc/{pid}/task").iterdir():
            pids += [int(child) for child in (task / "children").read_text().split()]
    return total_kb * 1024 / 1e6


def _tokens() -> "NDArray[np.int32]":
    """Return an input of Magika: int32 [1, 2048], 0 to 256."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 257, (1, 2048), np.int32)


def _wait(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_LIMIT_S
    while not is_true():
        if time.monotonic() > deadline:
            sys.exit(f"Waited {WAIT_LIMIT_S:.0f} seconds in vain.")
        time.sleep(0.005)


def _magika() -> Path:
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        sys.exit("The package magika is not installed; run `make bench`.")
    return Path(spec.origin).parent / "models/standard_v3_3/model.onnx"


@contextmanager
def served_fleet() -> Iterator[Fleet]:
    """Make the store and serve it; everything lies in a temporary folder that goes away afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="edge-agent-bench-"))
    fleet = Fleet(folder)
    fleet.command("edge-fleet", "init", "store", "--keys", "keys", "--unencrypted")
    program = Path(sys.executable).with_name("edge-fleet")
    server = subprocess.Popen(
        [program, "serve", "store", "--port", "0", "--json"],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        fleet.config.write_text(
            f'[device]\nid = "bench"\n[paths]\nstate = "{folder}/state"\nruntime = "{folder}/run"\n'
            f'[store]\nurl = "{url}"\nroot = "{folder}/store/root.json"\n'
        )
        yield fleet
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def tell(rows: list[Row], as_json: bool) -> int:
    """Print rows as a table or as JSON; return the exit code, 1 while a target is missed."""
    if as_json:
        print(json.dumps([{**dataclasses.asdict(row), "met": row.met} for row in rows]))
    else:
        for row in rows:
            verdict = "met" if row.met else "MISSED"
            print(f"{row.name:52} {row.value:8.2f} {row.unit:9} target <= {row.target:g}  {verdict}")
    return 0 if all(row.met for row in rows) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document with all rows")
    args = parser.parse_args()
    with served_fleet() as fleet:
        rows = list(measure(fleet))
    return tell(rows, args.json)


if __name__ == "__main__":
    sys.exit(main())
