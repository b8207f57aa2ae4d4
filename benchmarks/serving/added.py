"""What serving adds: binary tensors over the Unix socket, all on one CPU.

    python -m benchmarks.serving.added [--json] [--quick]

Taken off is a bare `session.run` of the same model in this process, and an exchange of as many bytes with a
20-line uvloop server; of a cached answer the exchange alone. The calls take turns, so that all of them see the
same machine.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.serving import models
from benchmarks.serving.agent import MODEL, Agent, pinned, serving
from benchmarks.serving.exchanges import answer, binary, connect, exchanging, medians_us, post
from benchmarks.serving.latency import ECHO
from benchmarks.serving.rows import Row, main, progress
from edge_agent.documents.settings import SharedMemorySettings

ONES = np.ones((1, 16), np.int32)
PATH = f"/v2/models/{MODEL}/infer"


def measure(quick: bool) -> Iterator[Row]:
    cpus = {max(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as name, pinned(cpus):
        yield from tiny(Path(name), 300 if quick else 5000)
        yield from image(Path(name), 100 if quick else 1000)


def tiny(folder: Path, rounds: int) -> Iterator[Row]:
    """A model that takes next to no time, and the same from the cache."""
    progress("What serving adds to a tiny model …")
    arrays = {"INPUT0": ONES, "INPUT1": ONES}
    model = models.add_sub(folder)
    with ExitStack() as stack:
        agent = stack.enter_context(serving(_made(folder / "tiny"), model, threads=1))
        fresh, cached = binary(PATH, arrays, cache=False), binary(PATH, arrays)
        echoes = {}
        for name, request in (("fresh", fresh), ("cached", cached)):
            size, _ = _settled(agent, request)
            echoes[name] = stack.enter_context(echoing(_made(folder / name), len(request), size))
        found = medians_us(
            {
                "fresh": exchanging(agent.path, fresh),
                "cached": exchanging(agent.path, cached),
                "run": bare(model, arrays),
                "fresh echo": exchanging_plain(echoes["fresh"], fresh),
                "cached echo": exchanging_plain(echoes["cached"], cached),
            },
            rounds,
        )
    added = found["fresh"] - found["run"] - found["fresh echo"]
    parts = {"request": found["fresh"], "session.run": found["run"], "echo": found["fresh echo"]}
    yield Row("added to session.run and echo, binary, Unix socket, p50", added, "µs", 40, False, parts, "µs")
    added = found["cached"] - found["cached echo"]
    parts = {"request": found["cached"], "echo": found["cached echo"]}
    yield Row("added to an echo by a cached answer, p50", added, "µs", 15, False, parts, "µs")


def image(folder: Path, rounds: int) -> Iterator[Row]:
    """1.2 MB in shared memory, copied, not cached."""
    progress("What serving adds to 1.2 MB in shared memory …")
    picture = models.random(models.IMAGE)
    model = models.image(folder)
    with ExitStack() as stack:
        settings = {"shared_memory": SharedMemorySettings(enabled=True)}
        agent = stack.enter_context(serving(_made(folder / "image"), model, threads=1, **settings))
        request = in_memory(stack, agent, picture)
        size, _ = _settled(agent, request)
        echo = stack.enter_context(echoing(_made(folder / "image echo"), len(request), size))
        found = medians_us(
            {
                "request": exchanging(agent.path, request),
                "run": bare(model, {"x": picture}),
                "echo": exchanging_plain(echo, request),
            },
            rounds,
        )
    added = found["request"] - found["run"] - found["echo"]
    parts = {"request": found["request"], "session.run": found["run"], "echo": found["echo"]}
    yield Row(
        "added to session.run and echo, 1.2 MB in shared memory, p50", added, "µs", 160, False, parts, "µs"
    )


def in_memory(stack: ExitStack, agent: Agent, picture: Any) -> bytes:
    """Put a picture into shared memory, register that, and return the request for it."""
    path = Path("/dev/shm") / f"edge-agent-benchmark-{os.getpid()}"
    path.write_bytes(picture.tobytes())
    stack.callback(path.unlink)
    register = post(
        "/v2/systemsharedmemory/region/r/register",
        {"key": f"/{path.name}", "offset": 0, "byte_size": picture.nbytes},
    )
    with connect(agent.path) as connection:
        answer(connection, register)
    place = {"shared_memory_region": "r", "shared_memory_byte_size": picture.nbytes}
    tensor = {"name": "x", "datatype": "FP32", "shape": picture.shape, "parameters": place}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True, "cache": False}}).encode()
    return post(PATH, head, f"Inference-Header-Content-Length: {len(head)}\r\n")


def bare(model: Path, arrays: dict[str, Any]) -> Any:
    """Return a call of session.run, set up as the agent's engine sets it up for one CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, arrays)


@contextmanager
def echoing(folder: Path, asked_bytes: int, answer_bytes: int) -> Iterator[Path]:
    """A server that answers so many bytes to so many."""
    path = folder / "echo.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        arguments = [str(listener.fileno()), str(asked_bytes), str(answer_bytes)]
        process = subprocess.Popen([sys.executable, "-c", ECHO, *arguments], pass_fds=[listener.fileno()])
        try:
            yield path
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


def exchanging_plain(path: Path, request: bytes) -> Any:
    """Return a call that asks the echo, whose answers are no HTTP."""
    connection = connect(path)
    connection.sendall(request)
    connection.settimeout(5)
    size = len(connection.recv(2**20))
    connection.settimeout(None)

    def exchange() -> None:
        connection.sendall(request)
        missing = size
        while missing:
            missing -= len(connection.recv(missing))

    return exchange


def _settled(agent: Agent, request: bytes) -> tuple[int, bytes]:
    with connect(agent.path) as connection:
        for _ in range(3):
            found = answer(connection, request)
    return found


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
