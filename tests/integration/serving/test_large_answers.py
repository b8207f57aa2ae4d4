"""Large answers in JSON: they hold up nobody else, and are those that small ones would be."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edge_agent.client import Client
from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import CacheSettings, TaskSettings
from support.serving import LIMIT_S, ServingProcess, identity_onnx, reciprocal_onnx, save_onnx, version_plan

TIMES = 500_000
TRIES = 5


def tiled_onnx(path: Path) -> Path:
    """Write y = x, so many times side by side, on FP32 [n, 2]."""
    nodes = [
        helper.make_node("Constant", [], ["times"], value_ints=[1, TIMES]),
        helper.make_node("Tile", ["x", "times"], ["y"]),
    ]
    return save_onnx(path, nodes, {"x": ("FP32", ["n", 2])}, {"y": ("FP32", ["n", 2 * TIMES])})


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    folder = tmp_path_factory.mktemp("large")
    settings: dict[str, Any] = {
        "cache": CacheSettings(max_bytes=2**28),
        "tasks": TaskSettings(max_bytes=2**28),
    }
    with ServingProcess(folder / "s", **settings) as process:
        plans = [
            version_plan(tiled_onnx(folder / "large.onnx"), "large"),
            version_plan(identity_onnx(folder / "small.onnx"), "small"),
            version_plan(reciprocal_onnx(folder / "reciprocal.onnx"), "reciprocal"),
        ]
        assert isinstance(process.apply(*plans), Applied)
        yield process


def ask(
    serving: ServingProcess, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, bytes]:
    """Return status, headers and body of the answer."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(LIMIT_S)
    connection.sock.connect(str(serving.path))
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def request(*numbers: float, **parameters: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": numbers}
    return {"inputs": [tensor], "parameters": parameters}


def infer(serving: ServingProcess, body: Any, model: str = "large", **headers: str) -> tuple[int, Any, bytes]:
    return ask(serving, "POST", f"/v2/models/{model}/infer", body, headers)


def longest_pause(serving: ServingProcess) -> float:
    """Return the longest time without a small answer while a large one comes, as a part of what that takes."""
    took_s: list[float] = []
    began = threading.Event()

    def ask_large() -> None:
        began.set()
        started_s = time.perf_counter()
        assert infer(serving, request(0.1, 1 / 3, cache=False))[0] == 200
        took_s.append(time.perf_counter() - started_s)

    asking = threading.Thread(target=ask_large)
    longest_s = 0.0
    with Client(serving.path) as client:
        client.infer("small", np.ones((1, 2), np.float32))
        asking.start()
        assert began.wait(LIMIT_S)
        while asking.is_alive():
            started_s = time.perf_counter()
            client.infer("small", np.ones((1, 2), np.float32))
            longest_s = max(longest_s, time.perf_counter() - started_s)
    asking.join()
    return longest_s / took_s[0]


def test_nobody_waits_while_one_is_written(serving: ServingProcess) -> None:
    parts = []
    while not parts or min(parts) > 0.4:
        parts.append(longest_pause(serving))
        assert len(parts) < TRIES, parts


def test_it_is_the_same_however_it_came_to_be(serving: ServingProcess) -> None:
    body = request(0.1, 1 / 3)
    answers = [json.loads(infer(serving, body)[2]) for _ in range(5)]
    wanted = np.tile(np.array([0.1, 1 / 3], np.float32), TIMES)
    for answer in answers:
        assert np.array_equal(np.array(answer["outputs"][0]["data"], np.float32), wanted)
        assert answer["outputs"][0]["shape"] == [1, 2 * TIMES]
    assert [answer["parameters"]["cache"] for answer in answers] == ["miss"] + ["hit"] * 4
    assert len({answer["parameters"]["prediction_id"] for answer in answers}) == 5


def test_it_is_compressed_for_who_takes_that(serving: ServingProcess) -> None:
    status, headers, body = infer(serving, request(1, 2), **{"Accept-Encoding": "gzip"})
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert len(body) < TIMES


def test_it_is_the_result_of_a_task(serving: ServingProcess) -> None:
    status, headers, _ = infer(serving, request(1, 3), Prefer="respond-async")
    assert status == 202
    status, _, body = ask(serving, "GET", f"{headers['Location']}/result", headers={"Prefer": "wait=30"})
    assert status == 200
    assert json.loads(body)["outputs"][0]["data"] == [1, 3] * TIMES


def test_what_json_cannot_carry_is_told_and_counted(serving: ServingProcess) -> None:
    values = [1.0] * 20_000 + [0.0]
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(values)], "data": values}
    status, _, body = infer(serving, {"inputs": [tensor]}, "reciprocal")
    assert (status, "has NaN or infinity" in json.loads(body)["error"]) == (400, True)
    statistics = json.loads(ask(serving, "GET", "/v2/models/reciprocal/stats")[2])
    assert statistics["model_stats"][0]["inference_stats"]["fail"]["count"] == 1
