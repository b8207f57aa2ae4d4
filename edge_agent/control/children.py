"""Short-lived children, sync and probe: one request down, messages up, and how it ended."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge_agent.telemetry.memory import free_bytes, kilobytes

LINE_LIMIT_BYTES = 16 * 2**20
MEMORY_POLL_S = 0.05

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a child ended; `how` is one phrase for a person, for example `was killed by SIGSEGV`."""

    cause: Literal["exited", "signal", "timeout", "memory", "starved"]
    """`memory`: it took more memory than it may; `starved`: the system had too little memory, or too little
    time on its processors, for it."""
    code: int
    """Exit status, or the signal's number."""
    how: str


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """A child is killed above `limit_bytes` resident, or when the system has less than `reserve_bytes` left."""

    limit_bytes: int
    reserve_bytes: int


async def converse(
    module: str,
    request: msgspec.Struct,
    answers: Any,
    on_answer: Callable[[Any], None],
    *,
    silence_s: float,
    memory: MemoryLimits | None = None,
) -> ChildEnd:
    """Run `python -m module`, write the request, hand on each answer, and wait for the end.

    `answers` is the type of the lines on standard output; a line that is none of it counts as the child's
    failure and is skipped. The child is killed after `silence_s` without a line, by its limits of memory, and
    when the caller is cancelled.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_LIMIT_BYTES,
        start_new_session=True,
    )
    killed: list[ChildEnd] = []
    watch = None
    if memory is not None:
        watch = asyncio.create_task(_watch_memory(process, memory, killed), name="memory watch")
    try:
        await _send(process, request)
        await _receive(process, answers, on_answer, silence_s, killed)
        status = await process.wait()
    finally:
        if watch is not None:
            watch.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
    return killed[0] if killed else ending(status)


def ending(status: int) -> ChildEnd:
    """Describe a return code as asyncio gives it: negative for a signal."""
    if status < 0:
        return ChildEnd("signal", -status, f"was killed by {signal_name(-status)}")
    return ChildEnd("exited", status, f"exited with status {status}")


def signal_name(number: int) -> str:
    """Return `SIGSEGV`, or `signal 35` for one of the real-time signals, which have no names of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


async def _send(process: asyncio.subprocess.Process, request: msgspec.Struct) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        await process.stdin.drain()
        process.stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        log.debug("A child ended before it had read its request.")


async def _receive(
    process: asyncio.subprocess.Process,
    answers: Any,
    on_answer: Callable[[Any], None],
    silence_s: float,
    killed: list[ChildEnd],
) -> None:
    assert process.stdout is not None
    decoder = msgspec.json.Decoder(answers)
    while True:
        try:
            line = await asyncio.wait_for(process.stdout.readline(), silence_s)
        except TimeoutError:
            killed.append(_silent(process.pid, silence_s))
            process.kill()
            return
        if not line:
            return
        try:
            answer = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("A child wrote what is no answer (%s): %r", error, line[:200])
            continue
        on_answer(answer)


def _silent(pid: int, silence_s: float) -> ChildEnd:
    """Tell a child that does not answer from one that the others left no processor to."""
    if _waited_s(pid) > silence_s / 2:
        return ChildEnd("starved", 0, f"got too little of the processors to answer within {silence_s:g} s")
    return ChildEnd("timeout", 0, f"did not answer for {silence_s:g} s")


def _waited_s(pid: int) -> float:
    """Return how long the thread that waited longest for a processor did; 0 where the kernel does not say.

    Source: https://docs.kernel.org/scheduler/sched-stats.html, "/proc/<pid>/schedstat".
    """
    try:
        waited_ns = [int(task.read_text().split()[1]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(waited_ns, default=0) / 1e9


async def _watch_memory(
    process: asyncio.subprocess.Process, limits: MemoryLimits, killed: list[ChildEnd]
) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.returncode is None:
        resident = _resident_bytes(status)
        if resident > limits.limit_bytes:
            how = f"used more than {limits.limit_bytes // 2**20} MiB of memory"
            killed.append(ChildEnd("memory", 0, how))
        elif free_bytes() < limits.reserve_bytes:
            how = f"used {resident // 2**20} MiB of memory when the device ran out of it"
            killed.append(ChildEnd("starved", 0, how))
        else:
            await asyncio.sleep(MEMORY_POLL_S)
            continue
        process.kill()
        return


def _resident_bytes(status: Path) -> int:
    try:
        return kilobytes(status.read_text(), "VmRSS")
    except OSError:
        return 0
