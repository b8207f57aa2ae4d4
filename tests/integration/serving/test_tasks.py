"""A real serving process: requests that are answered later, and what becomes of their results."""

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.client import Client
from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import CacheSettings, TaskSettings
from support.agent import wait_until
from support.serving import (
    LIMIT_S,
    ServingProcess,
    identity_onnx,
    streaming_plan,
    summing_onnx,
    version_plan,
)

ASYNC = {"Prefer": "respond-async"}


class Answer:
    """Status, headers and body of an answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.body)
        return content


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LIMIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect(str(self._path))


def ask(
    serving: ServingProcess, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Answer:
    connection = _UnixConnection(serving.path)
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, headers or {})
    response = connection.getresponse()
    answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    connection.close()
    return answer


def question(*shape: int, **more: Any) -> dict[str, Any]:
    data = np.ones(shape).ravel().tolist()
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data}], **more}


def later(serving: ServingProcess, body: Any = None, model: str = "m", **headers: str) -> str:
    """Send a request to be answered later; return the path of its task."""
    answer = ask(serving, "POST", f"/v2/models/{model}/infer", body or question(1, 2), ASYNC | headers)
    assert answer.status == 202, answer.body
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.headers["location"] == f"/v2/tasks/{answer.json['task_id']}"
    assert answer.json["status"] in ("queued", "running", "done")
    return answer.headers["location"]


def result(serving: ServingProcess, path: str, wait_s: int = 20) -> Answer:
    return ask(serving, "GET", f"{path}/result", headers={"Prefer": f"wait={wait_s}"})


def status(serving: ServingProcess, path: str) -> str:
    answer = ask(serving, "GET", path)
    assert answer.status == 200
    said: str = answer.json["status"]
    return said


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[ServingProcess]:
    """A quick model `m`, and one, `slow`, that takes some 100 ms."""
    with ServingProcess(tmp_path / "s", cache=CacheSettings()) as process:
        plans = (
            version_plan(identity_onnx(tmp_path / "m.onnx")),
            version_plan(summing_onnx(tmp_path / "slow.onnx", rounds=20), "slow"),
        )
        assert isinstance(process.apply(*plans), Applied)
        yield process


def slow_question(**parameters: Any) -> dict[str, Any]:
    described = question(1, 2)
    return {
        "inputs": [*described["inputs"], described["inputs"][0] | {"name": "before"}],
        "parameters": {"cache": False, **parameters},
    }


def test_the_result_is_the_answer_that_there_would_have_been_at_once(serving: ServingProcess) -> None:
    body = question(3, 2, id="mine")
    path = later(serving, body)
    answer = result(serving, path)
    at_once = ask(serving, "POST", "/v2/models/m/infer", body)
    assert answer.status == 200
    assert answer.json["id"] == "mine"
    assert answer.json["outputs"] == at_once.json["outputs"]
    assert answer.headers.keys() == at_once.headers.keys()
    assert answer.json["parameters"]["cache"] == "miss"
    assert at_once.json["parameters"]["cache"] == "hit"
    described = ask(serving, "GET", path).json
    assert described["status"] == "done"
    assert described["created_s"] <= described["finished_s"] < described["expires_s"]
    assert result(serving, path).body == answer.body


def test_binary_results_and_compressed_ones_are_kept_as_they_are(serving: ServingProcess) -> None:
    body = question(400, 2, parameters={"binary_data_output": True})
    plain = result(serving, later(serving, body))
    length = int(plain.headers["inference-header-content-length"])
    assert np.frombuffer(plain.body[length:], "<f4").tolist() == [1.0] * 800
    packed = result(serving, later(serving, body, **{"Accept-Encoding": "gzip"}))
    assert packed.headers["content-encoding"] == "gzip"


def test_known_bytes_are_never_answered_in_place_of_a_task(serving: ServingProcess) -> None:
    for _ in range(4):
        later(serving)


def test_a_task_is_queued_runs_and_is_done(serving: ServingProcess) -> None:
    workers = len(os.sched_getaffinity(0))
    paths = [later(serving, slow_question(), "slow") for _ in range(workers + 1)]
    first = ask(serving, "GET", f"{paths[-1]}/result")
    if first.status == 202:
        assert first.headers["retry-after"] == "1"
        assert first.json["status"] in ("queued", "running")
    for path in paths:
        assert result(serving, path).status == 200
        assert status(serving, path) == "done"


def test_who_waits_for_a_result_waits_no_longer_than_it_wants(serving: ServingProcess, tmp_path: Path) -> None:
    serving.apply(version_plan(summing_onnx(tmp_path / "slower.onnx", rounds=250), "slow"))
    path = later(serving, slow_question(), "slow")
    answer = result(serving, path, wait_s=1)
    assert (answer.status, answer.json["status"]) == (202, "running")
    assert ask(serving, "DELETE", path).json["status"] == "cancelled"


def test_a_cancelled_task_that_was_queued_never_runs(serving: ServingProcess) -> None:
    paths = [later(serving, slow_question(), "slow") for _ in range(6)]
    queued = [path for path in paths if status(serving, path) == "queued"]
    assert queued
    cancelled = [ask(serving, "DELETE", path).json["status"] for path in queued]
    assert "cancelled" in cancelled
    gone = [path for path, said in zip(queued, cancelled, strict=True) if said == "cancelled"]
    for path in gone:
        assert status(serving, path) == "cancelled"
        assert refusal(ask(serving, "GET", f"{path}/result")) == (
            410,
            "The task is cancelled, nothing is kept of it; send it again.",
        )
    for path in set(paths) - set(gone):
        assert result(serving, path).status == 200
    gauge = 'edge_agent_requests_in_flight{model="slow",version="1"} 0'
    wait_until(lambda: gauge in serving.metrics_text(), "the cancelled to be withdrawn")
    runs = ask(serving, "GET", "/v2/models/slow/stats").json["model_stats"][0]["execution_count"]
    assert runs <= len(paths) - len(gone) + len(os.sched_getaffinity(0))


def test_a_finished_task_is_deleted(serving: ServingProcess) -> None:
    path = later(serving)
    assert result(serving, path).status == 200
    assert ask(serving, "DELETE", path).json["status"] == "done"
    for gone in (path, f"{path}/result"):
        code, sentence = refusal(ask(serving, "GET", gone))
        assert (code, sentence.partition(":")[0]) == (404, "There is no such task of yours")


def test_what_fails_later_says_why_with_its_own_status(serving: ServingProcess, tmp_path: Path) -> None:
    path = later(serving, slow_question(timeout=1), "slow")
    answer = result(serving, path)
    assert answer.status == 504
    assert "gave no answer within the request's timeout" in answer.json["error"]
    assert status(serving, path) == "failed"


@pytest.mark.parametrize(
    ("model", "body", "code"),
    [("none", question(1, 2), 404), ("m", question(1, 3), 400), ("m", {"inputs": 1}, 400)],
)
def test_what_cannot_be_begun_is_refused_at_once(
    serving: ServingProcess, model: str, body: Any, code: int
) -> None:
    answer = ask(serving, "POST", f"/v2/models/{model}/infer", body, ASYNC)
    assert answer.status == code
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v2/tasks/x", 404),
        ("GET", "/v2/tasks/", 404),
        ("GET", "/v2/tasks", 404),
        ("GET", "/v2/tasks/x/y", 404),
        ("DELETE", "/v2/tasks/x", 404),
        ("DELETE", "/v2/tasks/x/result", 405),
        ("POST", "/v2/tasks/x", 405),
    ],
)
def test_other_paths_and_methods_are_refused(
    serving: ServingProcess, method: str, path: str, code: int
) -> None:
    assert ask(serving, method, path).status == code


def test_a_task_of_a_user_is_not_there_over_tcp(serving: ServingProcess) -> None:
    path = later(serving)
    connection = http.client.HTTPConnection(*serving.tcp, timeout=LIMIT_S)
    connection.request("GET", path)
    assert connection.getresponse().status == 404
    connection.close()


def test_a_restart_loses_tasks_and_says_so(serving: ServingProcess) -> None:
    path = later(serving)
    serving.process.kill()
    serving.wait()
    serving.start()
    for lost in (path, f"{path}/result"):
        code, sentence = refusal(ask(serving, "GET", lost))
        assert code == 410
        assert sentence.startswith("This task belongs to an earlier run of the server")


def test_a_server_that_stops_lets_nobody_wait(serving: ServingProcess) -> None:
    paths = [later(serving, slow_question(), "slow") for _ in range(6)]
    connection = _UnixConnection(serving.path)
    connection.request("GET", f"{paths[-1]}/result", headers={"Prefer": "wait=60"})
    wait_until(lambda: ask(serving, "GET", "/v2/health/live").status == 200, "it to have been read")
    serving.drain()
    assert connection.getresponse().status in (200, 202)
    connection.close()
    assert serving.wait() == 0


def test_tasks_are_bounded_in_number(tmp_path: Path) -> None:
    with ServingProcess(tmp_path / "s", tasks=TaskSettings(max_count=2)) as serving:
        serving.apply(version_plan(identity_onnx(tmp_path / "m.onnx")))
        paths = [later(serving), later(serving)]
        answer = ask(serving, "POST", "/v2/models/m/infer", question(1, 2), ASYNC)
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        ask(serving, "DELETE", paths[0])
        later(serving)


def test_tasks_are_bounded_in_bytes(tmp_path: Path) -> None:
    with ServingProcess(tmp_path / "s", tasks=TaskSettings(max_bytes=20_000)) as serving:
        serving.apply(version_plan(identity_onnx(tmp_path / "m.onnx")))
        answer = ask(serving, "POST", "/v2/models/m/infer", question(4000, 2), ASYNC)
        assert answer.status == 503
        assert "raise tasks.max_count or tasks.max_bytes" in answer.json["error"]
        first = later(serving, question(1200, 2))
        assert result(serving, first).status == 200
        refused = ask(serving, "POST", "/v2/models/m/infer", question(1200, 2), ASYNC)
        assert refused.status == 503
        ask(serving, "DELETE", first)
        wide = {"name": "x", "datatype": "FP32", "shape": [1500, 2], "data": [1] * 3000}
        long = later(serving, {"inputs": [wide], "outputs": [{"name": "y"}]})
        answer = result(serving, long)
        assert answer.status in (200, 503)


def test_results_expire(tmp_path: Path) -> None:
    with ServingProcess(tmp_path / "s", tasks=TaskSettings(keep_s=0.2)) as serving:
        serving.apply(version_plan(identity_onnx(tmp_path / "m.onnx")))
        path = later(serving)
        made_s = time.monotonic()
        wait_until(lambda: time.monotonic() > made_s + 0.25, "time to pass")
        assert status(serving, path) == "expired"
        assert refusal(ask(serving, "GET", f"{path}/result"))[0] == 410


def test_a_task_may_be_one_of_a_sequence(tmp_path: Path) -> None:
    with ServingProcess(tmp_path / "s") as serving:
        serving.apply(streaming_plan(summing_onnx(tmp_path / "m.onnx")))
        start = {"parameters": {"sequence_id": 7, "sequence_start": True}}
        more = {"parameters": {"sequence_id": 7}}
        paths = [later(serving, question(1, 2) | flags) for flags in (start, more, more)]
        values = [result(serving, path).json["outputs"][0]["data"] for path in paths]
        assert values == [[1, 1], [2, 2], [3, 3]]
        with Client(serving.path) as client:
            x = np.ones((1, 2), np.float32)
            assert client.infer("m", {"x": x}, parameters=more["parameters"]).outputs["y"].tolist() == [[4, 4]]
