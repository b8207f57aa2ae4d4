"""Requests that come again in the same bytes are answered without being read, and never wrongly."""

import http.client
import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edge_agent.client import Client, InferResult
from edge_agent.documents.settings import CacheSettings
from edge_agent.policy.prediction_id import decode
from support.models import affine_onnx
from support.remembering import SECRET, Serving, answer_of, experiment, noisy_onnx, version_plan
from support.serving import save_onnx

ONES = np.ones((1, 3), np.float32)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path) as process:
        yield process


def ask(client: Client, count: int, **parameters: object) -> list[InferResult]:
    return [client.infer("m", {"x": ONES}, parameters=parameters) for _ in range(count)]


def value(result: InferResult) -> float:
    return float(result.outputs["y"][0, 0])


def test_all_answers_are_the_same_but_for_their_prediction_id(serving: Serving, tmp_path: Path) -> None:
    serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
    with serving.client() as client:
        results = ask(client, 50)
    assert [result.parameters["cache"] for result in results] == ["miss"] + ["hit"] * 49
    assert len({value(result) for result in results}) == 1
    ids = {result.prediction_id for result in results}
    assert len(ids) == 50
    assert {decode(SECRET, prediction_id).arm for prediction_id in ids} == {"1"}
    samples = serving.metrics()
    assert samples['edge_agent_cache_requests_total{model="m",version="1",result="hit"}'] == 49
    assert samples['edge_agent_requests_total{model="m",version="1"}'] == 50
    assert samples['edge_agent_arm_requests_total{model="m",version="1",arm="1"}'] == 50


def tiled_onnx(path: Path, times: int) -> Path:
    """Write y = x, side by side this many times, on FP32 [n, 3]."""
    nodes = [
        helper.make_node("Constant", [], ["times"], value_ints=[1, times]),
        helper.make_node("Tile", ["x", "times"], ["y"]),
    ]
    return save_onnx(path, nodes, {"x": ("FP32", ["n", 3])}, {"y": ("FP32", ["n", 3 * times])})


def test_arms_get_their_shares_also_while_one_answer_alone_is_known(tmp_path: Path) -> None:
    """If a request whose arm is not known were drawn again, the known arm would get three quarters."""
    with Serving(tmp_path, CacheSettings(max_bytes=64_000)) as serving:
        # The second arm's answer takes 12 KB, more than there is for known requests, so each one is read.
        plans = [
            version_plan(tiled_onnx(tmp_path / f"{times}.onnx", times), version=str(times))
            for times in (1, 1000)
        ]
        serving.apply(*plans, policies=[experiment(("1", 1), ("1000", 1), unit="request")])
        with serving.client() as client:
            results = ask(client, 2000)
        for result in results:
            assert result.outputs["y"].size == 3 * int(result.model_version)
            assert result.arm == f"arm-{result.model_version}" == decode(SECRET, result.prediction_id).arm
        assert sum(serving.exposures(plan) for plan in plans) == 2000
    arms = Counter(result.arm for result in results)
    assert 850 < arms["arm-1"] < 1150


def test_the_unit_decides_though_the_bytes_are_known(serving: Serving, tmp_path: Path) -> None:
    plans = [version_plan(affine_onnx(tmp_path / f"{name}.onnx", float(name)), version=name) for name in "23"]
    serving.apply(*plans, policies=[experiment(("2", 1), ("3", 1), unit="key")])
    with serving.client() as client:
        arms = [{result.arm for result in ask(client, 6, unit=f"caller-{number}")} for number in range(20)]
    assert all(len(found) == 1 for found in arms)
    assert set.union(*arms) == {"arm-2", "arm-3"}


def test_another_plan_is_asked_anew(serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with serving.client() as client:
        for factor in (2.0, 3.0, 2.0):
            serving.apply(version_plan(affine_onnx(path, factor)))
            assert {value(result) for result in ask(client, 6)} == {factor}


def test_another_epoch_is_named_in_the_answers_at_once(serving: Serving, tmp_path: Path) -> None:
    plan = version_plan(affine_onnx(tmp_path / "m.onnx", 2.0))
    with serving.client() as client:
        for epoch in (1, 2):
            serving.apply(plan, policies=[experiment(("1", 1), epoch=epoch)])
            ids = [result.prediction_id for result in ask(client, 6)]
            assert {decode(SECRET, prediction_id).epoch for prediction_id in ids} == {epoch}


def test_answers_grow_old(serving: Serving, tmp_path: Path) -> None:
    plan = version_plan(noisy_onnx(tmp_path / "m.onnx"))
    serving.apply(plan, policies=[experiment(("1", 1), cache_ttl_s=0.05)])
    with serving.client() as client:
        results = ask(client, 3)
        while (newest := ask(client, 1)[0]).parameters["cache"] == "hit":
            results.append(newest)
    assert len({value(result) for result in results}) == 1
    assert value(newest) != value(results[0])


def test_a_request_that_must_not_be_cached_never_is(serving: Serving, tmp_path: Path) -> None:
    serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
    with serving.client() as client:
        ask(client, 5)
        fresh = ask(client, 5, cache=False)
    assert len({value(result) for result in fresh}) == 5


def test_json_with_an_id_and_a_unit_in_a_header(serving: Serving, tmp_path: Path) -> None:
    serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 1, 1]}
    body = {"inputs": [tensor], "id": "my request"}
    first = answer_of(serving.post(body))[1]
    content = json.dumps(body).encode()
    head = f"POST /v2/models/m/infer HTTP/1.1\r\nEdge-Unit: me\r\nContent-Length: {len(content)}\r\n\r\n"
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(serving.path))
    answers = []
    for _ in range(5):
        connection.sock.sendall(head.encode() + content)
        with http.client.HTTPResponse(connection.sock) as response:
            response.begin()
            answers.append(json.loads(response.read()))
    connection.close()
    for answer in answers:
        assert answer["id"] == "my request"
        assert answer["outputs"] == first["outputs"]
    assert len({answer["parameters"]["prediction_id"] for answer in answers}) == 5


def binary_request(protocol: str) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 1, 1]}
    body = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = (
        f"POST /v2/models/m/infer {protocol}\r\nConnection: keep-alive\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def exchange(connection: socket.socket, request: bytes) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of the answer."""
    connection.sendall(request)
    response = http.client.HTTPResponse(connection)
    response.begin()
    return dict(response.headers), response.read()


def outputs_of(headers: dict[str, str], body: bytes) -> bytes:
    assert headers["Content-Type"] == "application/octet-stream"
    assert int(headers["Content-Length"]) == len(body)
    return body[int(headers["Inference-Header-Content-Length"]) :]


def test_a_binary_answer_has_its_headers_also_for_http_1_0(serving: Serving, tmp_path: Path) -> None:
    serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(serving.path))
        answers = [exchange(connection, binary_request("HTTP/1.0")) for _ in range(6)]
    assert {headers["Connection"] for headers, _ in answers} == {"keep-alive"}
    assert len({outputs_of(*answer) for answer in answers}) == 1


def test_a_binary_answer_has_its_headers_also_when_it_is_the_last(serving: Serving, tmp_path: Path) -> None:
    serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(serving.path))
        answers = [exchange(connection, binary_request("HTTP/1.1")) for _ in range(6)]
        serving.process.terminate()
        while "Connection" not in answers[-1][0]:
            answers.append(exchange(connection, binary_request("HTTP/1.1")))
    assert answers[-1][0]["Connection"] == "close"
    assert len({outputs_of(*answer) for answer in answers}) == 1


def test_all_that_is_remembered_stays_within_the_limit(tmp_path: Path) -> None:
    limit = 200_000
    with Serving(tmp_path, CacheSettings(max_bytes=limit)) as serving:
        serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
        with serving.client() as client:
            for number in range(200):
                x = np.full((1, 100), number, np.float32)
                results = [client.infer("m", {"x": x}) for _ in range(4)]
                assert len({float(result.outputs["y"][0, 0]) for result in results}) == 1
        samples = serving.metrics()
    assert 0 < samples["edge_agent_cache_bytes"] <= limit
