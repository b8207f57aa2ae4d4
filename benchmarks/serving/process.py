"""What the processes take: memory after 10,000 requests, and the time from exec to the first answer.

    python -m benchmarks.serving.process [--json] [--quick]

`edge-agent serve` with Magika, a 3 MB ONNX model: supervisor and serving together. Memory is the proportional
set size (PSS) of all processes of the agent. Half of the requests are remembered ones, the others run the
model, from four clients. This process itself loads neither numpy nor a runtime: pages that it shared with the
agent would count for half.
"""

import json
import random
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.serving.command import pss_mb, served
from benchmarks.serving.generators import h2load
from benchmarks.serving.packaged import MAGIKA, packaged
from benchmarks.serving.rows import Row, main, progress

CLIENTS = 4
REST_S = 10.0


def measure(quick: bool) -> Iterator[Row]:
    model = packaged(MAGIKA)
    progress("Start of the agent with Magika …")
    starts = [start_s(model) for _ in range(1 if quick else 5)]
    yield Row("exec to first answer", statistics.median(starts), "s", 1.2)
    requests = 500 if quick else 10_000
    progress(f"Memory of the agent with Magika, after {requests:,} requests …")
    after, rested = memory_mb(model, requests)
    name = f"PSS of all processes, one 3 MB ONNX model, after {requests:,} requests"
    yield Row(name, after, "MB", 95)
    yield Row(f"the same {REST_S:g} s later", rested, "MB", 95)


def start_s(model: Path) -> float:
    """Return the seconds from starting `edge-agent serve` until it has answered a request to the model."""
    started_s = time.perf_counter()
    with served(model) as agent:
        _wait_for_answer(agent.path)
        return time.perf_counter() - started_s


def memory_mb(model: Path, requests: int) -> tuple[float, float]:
    """Return the memory right after so many requests, and after a rest."""
    with served(model) as agent, tempfile.TemporaryDirectory() as name:
        _wait_for_answer(agent.path)
        for is_cached in (True, False):
            load = h2load(
                Path(name), agent.path, magika_request(is_cached=is_cached), CLIENTS, requests=requests // 2
            )
            assert not load.failures, load
        after = pss_mb(agent.pid)
        time.sleep(REST_S)
        return after, pss_mb(agent.pid)


def magika_request(*, is_cached: bool) -> bytes:
    """Return a request to Magika with binary tensors: INT32 [1, 2048], each 0 to 256."""
    tokens = struct.pack("<2048i", *random.Random(0).choices(range(257), k=2048))
    size = {"binary_data_size": len(tokens)}
    tensor = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "parameters": size}
    parameters = {"binary_data_output": True, "cache": is_cached}
    head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    lines = ["POST /v2/models/magika/infer HTTP/1.1", "Host: localhost"]
    lines += [f"Inference-Header-Content-Length: {len(head)}", f"Content-Length: {len(head) + len(tokens)}"]
    return "\r\n".join([*lines, "", ""]).encode() + head + tokens


def _wait_for_answer(path: Path) -> None:
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(magika_request(is_cached=True))
                if connection.recv(64).startswith(b"HTTP/1.1 200 "):
                    return
        except OSError:
            pass
        time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
