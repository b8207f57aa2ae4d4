"""Ends or stops a process at the n-th call that makes a change of the disk last or visible, by strace."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from support.host import need_program, need_root

CALLS = ("fsync", "fdatasync", "rename", "renameat2", "link", "linkat", "symlink", "unlink", "unlinkat")
LIMIT_S = 30.0


@dataclass(frozen=True)
class Boundary:
    """The `number`-th call of a kind, counted from 1."""

    call: str
    number: int


@contextmanager
def traced(
    pid: int, boundary: Boundary | None = None, signal: Literal["KILL", "STOP"] = "KILL"
) -> Iterator[list[Boundary]]:
    """Send a running process a signal as it comes to a boundary, which counts from now on.

    The list is filled with the boundaries that it came to, once the process and then the block have ended.
    """
    need_root("stopping a process at a system call")
    strace = need_program("strace", "strace")
    command = [strace, "-q", "-f", "-p", str(pid), "-o", "/dev/stdout", "-e", f"trace={','.join(CALLS)}"]
    if boundary is not None:
        command += ["-e", f"inject={boundary.call}:signal={signal}:when={boundary.number}"]
    calls: list[Boundary] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tracer:
        try:
            _wait_until_attached(pid)
            yield calls
            output, errors = tracer.communicate(timeout=LIMIT_S)
            assert tracer.returncode in (0, 137, -9), errors
        except BaseException:
            tracer.kill()
            raise
    made = [call for line in output.splitlines() if (call := _call(line)) in CALLS]
    calls += [Boundary(call, made[: index + 1].count(call)) for index, call in enumerate(made)]


def _call(line: str) -> str:
    """Return which call a line of strace's tells, `PID name(arguments) = result`."""
    return line.split(None, 1)[-1].partition("(")[0]


def _wait_until_attached(pid: int) -> None:
    while True:
        with Path(f"/proc/{pid}/status").open() as status:
            if any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in status):
                return
