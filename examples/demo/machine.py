"""Runs the real commands of this checkout, in the foreground and in the background, and ends what it began."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.demo.narrator import Narrator

CHECKOUT = Path(__file__).resolve().parents[2]
DEMO = CHECKOUT / ".demo"
WAIT_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0


class DemoError(Exception):
    """Something did not go as the demo promises; the message says what."""


class Machine:
    """This computer in the roles of the three in the story: workshop, store and device."""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        bin_folder = str(Path(sys.executable).parent)
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("EDGE_AGENT_")
        } | {"PATH": f"{bin_folder}:{os.environ.get('PATH', '')}", "COLUMNS": "96"}

    def run(self, *words: str, fails: bool = False, quiet: bool = False) -> str:
        """Show and run a command; return what it printed. Raises DemoError if its exit code surprises."""
        self._narrator.command(words)
        done = subprocess.run(
            words, cwd=CHECKOUT, env=self._environment, stdin=subprocess.DEVNULL, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if not quiet or (done.returncode != 0) is not fails:
            self._narrator.output(done.stdout)
        if (done.returncode != 0) is not fails:
            raise DemoError(f"'{shlex.join(words)}' ended with exit code {done.returncode}.")
        return done.stdout

    def ask(self, *words: str) -> Any:
        """Run a command with --json, without showing it, and return its answer."""
        done = subprocess.run(
            [*words, "--json"], cwd=CHECKOUT, env=self._environment, stdin=subprocess.DEVNULL, text=True,
            check=False, capture_output=True,
        )  # fmt: skip
        if done.returncode != 0:
            raise DemoError(f"'{shlex.join(words)}' failed: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def start(self, name: str, *words: str) -> None:
        """Show and start a command that keeps running; its output goes to .demo/<name>.log."""
        self._narrator.command(words, "in the background")
        with self.log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                words, cwd=CHECKOUT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def log(self, name: str) -> Path:
        """Return where the output of a background command goes."""
        return DEMO / f"{name}.log"

    def wait_until(self, what: str, is_true: Callable[[], bool]) -> None:
        """Wait for something; raises DemoError after a limit, or when a background command ends."""
        deadline = time.monotonic() + WAIT_LIMIT_S
        while not is_true():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    tail = self.log(name).read_text(errors="replace")[-2000:]
                    raise DemoError(f"The {name} ended with exit code {process.returncode}:\n{tail}")
            if time.monotonic() > deadline:
                raise DemoError(
                    f"Waited {WAIT_LIMIT_S:.0f} seconds in vain for {what}; see the logs in .demo/."
                )
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """End a background command with SIGKILL."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """End the background commands, the last one first."""
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._processes.clear()

    def leave_running(self) -> None:
        """Let the background commands outlive the demo; `.demo/pids` says which they are."""
        lines = [f"{process.pid}\n" for process in self._processes.values()]
        pid_file().write_text("".join(lines))
        self._processes.clear()


def pid_file() -> Path:
    """Return the file that names the processes of a demo that was left running."""
    return DEMO / "pids"


def stop_earlier() -> bool:
    """End what an earlier `make demo KEEP=1` left running in this checkout; say whether there was anything."""
    if not pid_file().exists():
        return False
    pids = [int(word) for word in pid_file().read_text().split()]
    ours = [pid for pid in pids if _is_ours(pid)]
    for pid in reversed(ours):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_LIMIT_S
    while any(_is_ours(pid) for pid in ours) and time.monotonic() < deadline:
        time.sleep(0.05)
    pid_file().unlink()
    return bool(ours)


def _is_ours(pid: int) -> bool:
    """Say whether the process is one of this checkout's demo: ids are used again by others."""
    try:
        directory = Path(f"/proc/{pid}/cwd").readlink()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    # The agent replaces its command line; every other one names a file of the demo.
    return directory == CHECKOUT and state != "Z" and (b"edge" in command or b".demo/" in command)


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Say whether somebody accepts connections on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def shown(path: Path) -> str:
    """Return a path as one would type it in the checkout."""
    return str(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else str(path)
