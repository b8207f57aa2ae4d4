"""What the processes take: memory after 10,000 requests, and the time from exec to the first answer.

    python -m benchmarks.serving.process [--json] [--quick]

`edge-agent serve` with Magika, a 3 MB ONNX model: supervisor and serving together. Memory is the proportional
set size (PSS) of all processes of the agent, from /proc/<pid>/smaps_rollup.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.serving.latency import magika_model
from benchmarks.serving.rows import Row, main, progress
from edge_agent.client import Client
from edge_agent.documents.errors import EdgeAgentError

TOKENS = np.random.default_rng(0).integers(0, 256, (64, 1, 2048)).astype(np.int32)


@dataclass(frozen=True)
class Served:
    """An agent that answers: its socket, its supervisor, and when it was started."""

    path: Path
    pid: int
    first_answer_s: float


def measure(quick: bool) -> Iterator[Row]:
    progress("Start and memory of the agent with Magika …")
    starts = []
    for _ in range(1 if quick else 5):
        with served() as agent:
            starts.append(agent.first_answer_s)
    requests = 500 if quick else 10_000
    with served() as agent, Client(agent.path) as client:
        for number in range(requests):
            client.infer("magika", TOKENS[number % len(TOKENS)])
        memory = pss_mb(agent.pid)
    yield Row(f"PSS of all processes, one 3 MB ONNX model, after {requests} requests", memory, "MB", 95)
    yield Row("exec to first answer", sorted(starts)[len(starts) // 2], "s", 1.2)


@contextmanager
def served() -> Iterator[Served]:
    """Run `edge-agent serve` until it has answered once."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-P", "-m", "edge_agent.cli.main", "serve", str(magika_model())]
        command += ["--name", "magika", "--port", "0", "--runtime", name]
        started_s = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        path = Path(name) / "infer.sock"
        try:
            with Client(path) as client:
                while not _answers(client):
                    time.sleep(0.005)
                yield Served(path, process.pid, time.monotonic() - started_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
            process.wait(60)


def _answers(client: Client) -> bool:
    try:
        client.infer("magika", {"bytes": TOKENS[0]})
    except EdgeAgentError:
        return False
    return True


def pss_mb(root: int) -> float:
    """Return the PSS of a process and all below it, in MB."""
    processes = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    total_kb = 0
    for process in processes:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        total_kb += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kb * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
