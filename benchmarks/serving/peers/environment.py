"""Virtual environments for the peers, in .cache/benchmarks/serving of the checkout."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.serving.agent import pinned

FOLDER = Path(__file__).parents[3] / ".cache/benchmarks/serving"
START_LIMIT_S = 90.0


def environment(name: str, *packages: str) -> Path:
    """Return the folder of an environment with these packages, which is made at its first use."""
    folder = FOLDER / name
    done = folder / ".installed"
    if not done.exists():
        print(f"Installing {name} for the comparison …", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *packages], check=True, stdout=sys.stderr)
        done.touch()
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str | Path],
    port: int,
    ready: str,
    cpus: set[int] | None,
    log: Path,
    environ: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run a server until it answers on the path `ready`, and end it and its children afterwards."""
    with log.open("wb") as out, pinned(cpus):
        process = subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, env={**os.environ, **(environ or {})}
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}{ready}", log)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if _answers(url):
            return
        time.sleep(0.2)
    raise RuntimeError(f"{process.args} did not start; its log ends with: {log.read_text()[-800:]}")


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
