"""A client with its output in shared memory that leaves before the answer: no fault of the model."""

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import SharedMemorySettings
from support.serving import LIMIT_S, ServingProcess, slow_onnx, version_plan

SIDE = 256
SIZE = SIDE * SIDE * 4


@pytest.fixture
def key() -> Iterator[str]:
    path = Path("/dev/shm") / f"edge-agent-leaving-{os.getpid()}"
    path.write_bytes(bytes(2 * SIZE))
    yield path.name
    path.unlink()


def post(connection: socket.socket, path: str, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


def metric(serving: ServingProcess, name: str) -> float:
    """Return the sum of a metric's values."""
    connection = http.client.HTTPConnection(*serving.metrics, timeout=LIMIT_S)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))


def wait_for(serving: ServingProcess, name: str, value: float) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while metric(serving, name) != value:
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_it_is_counted_as_an_answer_like_any_other(tmp_path: Path, key: str) -> None:
    def place(offset: int) -> dict[str, Any]:
        return {
            "shared_memory_region": "r",
            "shared_memory_byte_size": SIZE,
            "shared_memory_offset": offset,
        }

    x = {"name": "x", "datatype": "FP32", "shape": [SIDE, SIDE], "parameters": place(0)}
    request = {"inputs": [x], "outputs": [{"name": "y", "parameters": place(SIZE)}]}
    enabled = SharedMemorySettings(enabled=True)
    with ServingProcess(tmp_path / "serving", None, shared_memory=enabled) as serving:
        # Some hundred milliseconds, so that the client is gone while it runs.
        assert isinstance(serving.apply(version_plan(slow_onnx(tmp_path / "m.onnx", SIDE, 400))), Applied)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(LIMIT_S)
            client.connect(str(serving.path))
            whole = {"key": key, "offset": 0, "byte_size": 2 * SIZE}
            post(client, "/v2/systemsharedmemory/region/r/register", whole)
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            post(client, "/v2/models/m/infer", request)
            wait_for(serving, "edge_agent_requests_in_flight", 1)
        wait_for(serving, "edge_agent_requests_in_flight", 0)
        assert metric(serving, "edge_agent_requests_total") == 1
        assert metric(serving, "edge_agent_request_errors_total") == 0
