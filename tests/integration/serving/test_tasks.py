"""Requests that are answered later: accepted at once, kept within bounds, and gone with the process."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import CacheSettings, TaskSettings
from support.agent import wait_until
from support.serving import ServingProcess, identity_onnx, slow_onnx, version_plan

LATER = {"Prefer": "respond-async"}
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


def serve(folder: Path, **settings: Any) -> ServingProcess:
    folder.mkdir(exist_ok=True)
    process = ServingProcess(folder / "s", **settings)
    slow = slow_onnx(folder / "slow.onnx", 1024, 8)
    plans = [version_plan(identity_onnx(folder / "m.onnx")), version_plan(slow, "slow")]
    assert isinstance(process.apply(*plans), Applied)
    return process


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    settings = {"cache": CacheSettings(), "tasks": TaskSettings(max_bytes=2**28)}
    with serve(tmp_path_factory.mktemp("tasks"), **settings) as process:
        yield process


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(serving: ServingProcess, method: str, path: str, body: Any = None, headers: Any = None) -> Answer:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(str(serving.path))
    try:
        content = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, content, headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def begin(serving: ServingProcess, model: str = "m", body: Any = None) -> str:
    answer = ask(serving, "POST", f"/v2/models/{model}/infer", body or BODY, LATER)
    assert (answer.status, answer.headers["Preference-Applied"]) == (202, "respond-async")
    assert answer.headers["Location"] == f"/v2/tasks/{answer.json['task_id']}"
    location: str = answer.headers["Location"]
    return location


def slow(number: float = 1e-3) -> bytes:
    """Return a binary request to the slow model, without JSON."""
    return np.full((1024, 1024), number, np.float32).tobytes()


def begin_slow(serving: ServingProcess, number: float = 1e-3) -> str:
    headers = {**LATER, "Inference-Header-Content-Length": "0"}
    answer = ask(serving, "POST", "/v2/models/slow/infer", slow(number), headers)
    assert answer.status == 202
    location: str = answer.headers["Location"]
    return location


def test_the_result_is_the_answer_that_would_have_been_given(serving: ServingProcess) -> None:
    location = begin(serving)
    wait_until(lambda: ask(serving, "GET", location).json["status"] == "done", "the task to be done")
    told = ask(serving, "GET", location).json
    assert set(told) == {"task_id", "status", "created_s", "ended_s"}
    result = ask(serving, "GET", f"{location}/result")
    assert (result.status, result.json["outputs"][0]["data"]) == (200, [1.0, 2.0])
    assert "prediction_id" in result.json["parameters"]
    # It is kept until it expires, or is deleted.
    assert ask(serving, "GET", f"{location}/result").body == result.body
    assert ask(serving, "DELETE", location).status == 200
    assert ask(serving, "GET", location).status == 404


def test_binary_results_have_their_headers(serving: ServingProcess) -> None:
    location = begin(serving, body={**BODY, "parameters": {"binary_data_output": True}})
    result = ask(serving, "GET", f"{location}/result", headers={"Prefer": "wait=20"})
    length = int(result.headers["Inference-Header-Content-Length"])
    assert np.frombuffer(result.body[length:], np.float32).tolist() == [1, 2]


def test_results_are_kept_without_the_encoding_that_their_sender_takes(serving: ServingProcess) -> None:
    zeros = {"name": "x", "datatype": "FP32", "shape": [2500, 2], "data": [0] * 5000}
    headers = {**LATER, "Accept-Encoding": "gzip"}
    answer = ask(serving, "POST", "/v2/models/m/infer", {"inputs": [zeros]}, headers)
    result = ask(serving, "GET", f"{answer.headers['Location']}/result", headers={"Prefer": "wait=20"})
    assert (result.status, result.headers["Content-Encoding"]) == (200, None)
    assert result.json["outputs"][0]["data"] == [0] * 5000


def test_who_prefers_to_wait_hears_as_soon_as_it_is_done(serving: ServingProcess) -> None:
    location = begin_slow(serving)
    early = ask(serving, "GET", f"{location}/result")
    assert (early.status, early.json["status"], early.headers["Retry-After"]) == (202, "pending", "1")
    result = ask(serving, "GET", f"{location}/result", headers={"Prefer": "wait=30"})
    assert result.status == 200
    assert len(result.body) > 2**22


def test_the_same_bytes_ask_for_another_task_each_time(serving: ServingProcess) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(serving.path))
        body = json.dumps(BODY).encode()
        head = (
            f"POST /v2/models/m/infer HTTP/1.1\r\nPrefer: respond-async\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        for _ in range(6):
            connection.sendall(head.encode() + body)
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status == 202
            response.read()
            response.close()


def test_what_is_wrong_with_a_request_is_told_at_once(serving: ServingProcess) -> None:
    for path, body, status in (("none", BODY, 404), ("m", {"inputs": []}, 400)):
        answer = ask(serving, "POST", f"/v2/models/{path}/infer", body, LATER)
        assert (answer.status, list(answer.json)) == (status, ["error"])


def test_an_error_is_the_result_too(serving: ServingProcess) -> None:
    running = [begin_slow(serving, 1e-3 * number) for number in range(4)]
    shape = [1024, 1024]
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": 2**22}}
    content = json.dumps({"inputs": [tensor], "parameters": {"timeout": 1000}}).encode()
    headers = {**LATER, "Inference-Header-Content-Length": str(len(content))}
    answer = ask(serving, "POST", "/v2/models/slow/infer", content + slow(5.0), headers)
    result = ask(serving, "GET", f"{answer.headers['Location']}/result", headers={"Prefer": "wait=30"})
    assert (result.status, "within the request's timeout" in result.json["error"]) == (504, True)
    assert ask(serving, "GET", answer.headers["Location"]).json["status"] == "failed"
    for location in running:
        assert ask(serving, "GET", f"{location}/result", headers={"Prefer": "wait=30"}).status == 200
        ask(serving, "DELETE", location)


def test_a_cancelled_task_never_runs(serving: ServingProcess) -> None:
    running = [begin_slow(serving, 1e-3 * number) for number in range(8)]
    waiting = running[-1]
    assert ask(serving, "DELETE", waiting).json["status"] == "cancelled"
    result = ask(serving, "GET", f"{waiting}/result")
    assert (result.status, "was cancelled" in result.json["error"]) == (410, True)
    for location in running[:-1]:
        assert ask(serving, "GET", f"{location}/result", headers={"Prefer": "wait=30"}).status == 200
        ask(serving, "DELETE", location)


@pytest.mark.parametrize(
    ("path", "method", "status", "message"),
    [
        ("/v2/tasks/" + "0" * 40, "GET", 410, "of an earlier run of the server"),
        ("/v2/tasks/nonsense", "GET", 404, "There is no task 'nonsense' of yours"),
        ("/v2/tasks/x/more", "GET", 404, "There is nothing at"),
        ("/v2/tasks/x", "POST", 405, "GET, HEAD, DELETE only"),
        ("/v2/tasks/x/result", "DELETE", 405, "GET, HEAD only"),
    ],
)
def test_what_is_no_task_is_told(
    serving: ServingProcess, path: str, method: str, status: int, message: str
) -> None:
    answer = ask(serving, method, path)
    assert answer.status == status
    assert message in answer.json["error"]


class TestBounds:
    def test_what_ended_longest_ago_makes_room(self, tmp_path: Path) -> None:
        with serve(tmp_path, tasks=TaskSettings(max_count=6)) as serving:
            locations = []
            for _ in range(4):
                locations.append(begin(serving))
                result = ask(serving, "GET", f"{locations[-1]}/result", headers={"Prefer": "wait=20"})
                assert result.status == 200
            assert [ask(serving, "GET", location).status for location in locations] == [404, 200, 200, 200]

    def test_pending_tasks_are_never_dropped_for_new_ones(self, tmp_path: Path) -> None:
        with serve(tmp_path, tasks=TaskSettings(max_count=4, max_bytes=2**26)) as serving:
            locations = [begin_slow(serving), begin_slow(serving)]
            answer = ask(serving, "POST", "/v2/models/m/infer", BODY, LATER)
            assert (answer.status, "leave no room" in answer.json["error"]) == (503, True)
            assert answer.headers["Retry-After"]
            for location in locations:
                assert ask(serving, "GET", f"{location}/result", headers={"Prefer": "wait=30"}).status == 200

    def test_an_answer_that_is_too_large_is_told(self, tmp_path: Path) -> None:
        """A request of 4 KB of bytes has an answer of 10 KB of text."""
        with serve(tmp_path, tasks=TaskSettings(max_bytes=16_000)) as serving:
            values = np.full((512, 2), 1 / 3, np.float32)
            tensor = {"name": "x", "datatype": "FP32", "shape": [512, 2]}
            head = json.dumps(
                {"inputs": [{**tensor, "parameters": {"binary_data_size": values.nbytes}}]}
            ).encode()
            headers = {**LATER, "Inference-Header-Content-Length": str(len(head))}
            answer = ask(serving, "POST", "/v2/models/m/infer", head + values.tobytes(), headers)
            assert answer.status == 202
            result = ask(serving, "GET", f"{answer.headers['Location']}/result", headers={"Prefer": "wait=20"})
            assert (result.status, "larger than tasks.max_bytes" in result.json["error"]) == (503, True)

    def test_results_expire(self, tmp_path: Path) -> None:
        with serve(tmp_path, tasks=TaskSettings(keep_s=0.3)) as serving:
            location = begin(serving)
            wait_until(lambda: ask(serving, "GET", location).status == 404, "the task to expire")

    def test_a_restart_is_told(self, tmp_path: Path) -> None:
        with serve(tmp_path) as serving:
            location = begin(serving)
            serving.process.kill()
            serving.process.wait()
            serving.start()
            answer = ask(serving, "GET", location)
            assert (answer.status, "send it again" in answer.json["error"]) == (410, True)
