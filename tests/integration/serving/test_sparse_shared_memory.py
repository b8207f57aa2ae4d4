"""Shared memory that is larger than any memory costs its owner nothing, and the server no more."""

import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import HttpSettings, SharedMemorySettings
from support.serving import LIMIT_S, ServingProcess, identity_onnx, version_plan

REGION_BYTES = 2**40
BODY_BYTES = 2**20
"""http.max_body_bytes; three halves of it are http.max_bodies_bytes."""


@pytest.fixture
def key() -> Iterator[str]:
    path = Path("/dev/shm") / f"edge-agent-sparse-{os.getpid()}"
    path.touch()
    os.truncate(path, REGION_BYTES)
    yield path.name
    path.unlink()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[ServingProcess]:
    settings: dict[str, Any] = {
        "http": HttpSettings(max_body_bytes=BODY_BYTES, max_bodies_bytes=BODY_BYTES * 3 // 2),
        "shared_memory": SharedMemorySettings(enabled=True),
    }
    with ServingProcess(tmp_path / "s", **settings) as process:
        models = [
            version_plan(identity_onnx(tmp_path / "m.onnx"), "m"),
            version_plan(identity_onnx(tmp_path / "t.onnx", "BYTES"), "text"),
        ]
        assert isinstance(process.apply(*models), Applied)
        yield process


def post(serving: ServingProcess, path: str, content: dict[str, Any]) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(LIMIT_S)
    connection.sock.connect(str(serving.path))
    try:
        connection.request("POST", path, json.dumps(content))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def request(size_bytes: int, datatype: str) -> dict[str, Any]:
    place = {"shared_memory_region": "r", "shared_memory_byte_size": size_bytes}
    shape = [size_bytes // 8, 2]
    x = {"name": "x", "datatype": datatype, "shape": shape, "parameters": place}
    return {"inputs": [x], "parameters": {"binary_data_output": datatype == "FP32"}}


def test_it_is_never_read_beyond_the_limit_of_a_body(serving: ServingProcess, key: str) -> None:
    region = {"key": key, "offset": 0, "byte_size": REGION_BYTES}
    assert post(serving, "/v2/systemsharedmemory/region/r/register", region)[0] == 200
    for model, datatype in (("m", "FP32"), ("text", "BYTES")):
        for size_bytes in (BODY_BYTES + 8, 2**33):
            status, answer = post(serving, f"/v2/models/{model}/infer", request(size_bytes, datatype))
            assert status == 413
            assert f"larger than {BODY_BYTES} bytes" in answer["error"]
    small = request(64, "FP32") | {"parameters": {}}
    for _ in range(3):
        status, answer = post(serving, "/v2/models/m/infer", small)
        assert (status, answer["outputs"][0]["data"]) == (200, [0.0] * 16)
