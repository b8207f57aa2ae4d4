"""Worker processes as the converter sees them: start, ask, and notice when one dies or hangs.

Each runtime gets a process of its own: two TFLite runtimes in one process disturb each other, and a model that
crashes its runtime must not take the converter down.
"""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, TypeVar

import msgspec

from converters.errors import ConversionError, DataError, ToolMissingError, WorkerError
from converters.terms import Advanced, unheard
from converters.workers import messages
from edge_agent.documents.errors import EdgeAgentError, ModelLoadError, RequestError, StorageError

ANSWER_LIMIT_S: Final = 900.0
"""How long one answer, or the next word of progress, may take before the worker counts as hung; a large model's
calibration takes minutes."""

_ERRORS: Final[dict[messages.FailureKind, type[EdgeAgentError]]] = {
    "model": ModelLoadError,
    "missing": ToolMissingError,
    "conversion": ConversionError,
    "data": DataError,
    "request": RequestError,
    "storage": StorageError,
    "worker": WorkerError,
}
_CHUNK_BYTES: Final = 65536

R = TypeVar(
    "R",
    messages.Done,
    messages.Loaded,
    messages.Measured,
    messages.Exported,
    messages.Pruned,
    messages.Named,
    messages.Ranked,
    messages.Observed,
)


class Worker:
    """One child process; made by `worker`, which also ends it."""

    def __init__(self, process: "subprocess.Popen[bytes]", errors: Path, limit_s: float) -> None:
        self._process = process
        self._errors = errors
        self._limit_s = limit_s
        self._unread = b""
        """What came with the line before it: a child may write several before it is listened to."""

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def ask(
        self,
        message: messages.Ask,
        reply: type[R],
        advanced: Advanced = unheard,
    ) -> R:
        """Send a message and return the answer; `advanced` hears the share of the work that is done.

        Raises the error that the child reports (a ModelError, RequestError or OperatorError), or WorkerError
        when the child dies or does not answer in time.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        answer = msgspec.json.decode(self._line(), type=messages.Reply)
        while isinstance(answer, messages.Advanced):
            advanced(answer.share)
            answer = msgspec.json.decode(self._line(), type=messages.Reply)
        if isinstance(answer, messages.Failed):
            raise _ERRORS[answer.kind](answer.message)
        if not isinstance(answer, reply):
            raise WorkerError(f"The worker answered with {type(answer).__name__}; please report this.")
        return answer

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + self._limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, end - time.monotonic())):
                    self._process.kill()
                    raise WorkerError(f"It did not finish within {self._limit_s:.0f} s and was ended.")
                chunk = os.read(descriptor, _CHUNK_BYTES)
                if not chunk:
                    raise self._died()
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _died(self) -> WorkerError:
        code = self._process.wait()
        if code < 0:
            return WorkerError(f"The runtime crashed with {signal.Signals(-code).name}.")
        printed = self._errors.read_text(errors="replace").strip().splitlines()
        return WorkerError(
            f"The worker ended with exit code {code}: {printed[-1] if printed else 'no message'}."
        )


@contextmanager
def worker(folder: Path, limit_s: float = ANSWER_LIMIT_S) -> Iterator[Worker]:
    """Start a worker with `folder` as its working folder, for what libraries drop there; kill it at the end."""
    errors = folder / f"worker-{time.monotonic_ns()}.log"
    with errors.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "converters.jobs.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            # Ctrl-C reaches the converter alone, which ends its workers in order.
            process_group=0,
            env={**os.environ, "TMPDIR": str(folder), "PYTHONWARNINGS": "ignore"},
        )
    try:
        yield Worker(process, errors, limit_s)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            _close(pipe)


def _close(pipe: IO[bytes]) -> None:
    # What is left in the buffer of a worker that died has nowhere to go.
    with suppress(BrokenPipeError):
        pipe.close()
