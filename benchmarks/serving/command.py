"""`edge-agent serve` as a user starts it, and the memory of its processes. Loads no numpy and no runtime."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STOP_LIMIT_S = 60.0


@dataclass(frozen=True)
class Served:
    """Where an agent will answer, and its supervisor."""

    path: Path
    pid: int


@contextmanager
def served(model: Path, name: str = "magika") -> Iterator[Served]:
    """Run `edge-agent serve` with a model, which does not answer yet, and end it afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "edge_agent.cli.main", "serve", str(model)]
        command += ["--name", name, "--port", "0", "--runtime", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield Served(Path(folder) / "infer.sock", process.pid)
        finally:
            process.terminate()
            process.wait(STOP_LIMIT_S)


def pss_mb(root: int) -> float:
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
