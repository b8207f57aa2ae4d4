"""The serving process, with real models, sockets, channel and health page."""

import dataclasses
import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from onnx import helper

from edge_agent.client import Client
from edge_agent.documents.errors import (
    EdgeAgentError,
    ModelError,
    NotFoundError,
    PayloadTooLargeError,
    RequestError,
    UnavailableError,
)
from edge_agent.documents.ipc import Applied, Refused
from edge_agent.documents.settings import HttpSettings
from edge_agent.documents.tensors import TensorSpec
from support.serving import (
    ServingProcess,
    doubling_tflite,
    identity_onnx,
    magika,
    picky_onnx,
    reciprocal_onnx,
    save_onnx,
    slow_onnx,
    version_plan,
    wake_word,
)

LIMIT_S = 20.0
X = np.array([[1, 2]], np.float32)


def wait_until(condition, limit_s=LIMIT_S):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def serving(tmp_path):
    with ServingProcess(tmp_path / "serving") as process:
        yield process


@pytest.fixture
def client(serving):
    with Client(serving.path) as client:
        yield client


def scaling_onnx(path, factor):
    """Write y = factor * x on FP32 [n, 2]."""
    value = helper.make_tensor("value", 1, [], [factor])
    nodes = [
        helper.make_node("Constant", [], ["factor"], value=value),
        helper.make_node("Mul", ["x", "factor"], ["y"]),
    ]
    tensor = ("FP32", ["n", 2])
    return save_onnx(path, nodes, {"x": tensor}, {"y": tensor})


def ask(address, method, path, body=None, headers=None):
    """Ask over TCP and return status, headers and body."""
    connection = http.client.HTTPConnection(*address, timeout=LIMIT_S)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def error(answer):
    status, _, body = answer
    content = json.loads(body)
    assert list(content) == ["error"]
    assert content["error"].endswith(".")
    assert "Traceback" not in content["error"]
    return status, content["error"]


class TestModels:
    def test_onnx_answers_json_and_binary_alike(self, serving, client):
        assert isinstance(serving.apply(version_plan(magika(), "magika", "1")), Applied)
        tokens = np.random.default_rng(1).integers(0, 256, (2, 2048)).astype(np.int32)
        result = client.infer("magika", tokens, request_id="r1")
        assert (result.model_name, result.model_version, result.id) == ("magika", "1", "r1")
        scores = result.outputs["target_label"]
        assert scores.shape == (2, 214)
        tensor = {"name": "bytes", "datatype": "INT32", "shape": tokens.shape, "data": tokens.tolist()}
        status, _, body = ask(
            serving.tcp, "POST", "/v2/models/magika/infer", json.dumps({"inputs": [tensor], "id": "r2"})
        )
        answer = json.loads(body)
        assert (status, answer["id"], answer["model_version"]) == (200, "r2", "1")
        (output,) = answer["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("target_label", "FP32", [2, 214])
        np.testing.assert_allclose(np.reshape(output["data"], (2, 214)), scores, rtol=1e-6)

    def test_tflite_answers_with_its_integers_and_keeps_no_state(self, serving, client):
        serving.apply(version_plan(wake_word(), "wake", "1"))
        metadata = client.metadata("wake")
        assert [(spec.datatype, spec.shape) for spec in metadata.inputs] == [("INT8", (1, 3, 40))]
        frames = np.random.default_rng(2).integers(-128, 128, (20, 1, 3, 40)).astype(np.int8)
        forwards = [client.infer("wake", frame).outputs for frame in frames]
        backwards = [client.infer("wake", frame).outputs for frame in frames[::-1]][::-1]
        assert forwards == backwards

    def test_tflite_takes_a_batch(self, serving, client, tmp_path):
        serving.apply(version_plan(doubling_tflite(tmp_path / "m.tflite")))
        given = np.arange(12, dtype=np.float32).reshape(4, 3)
        np.testing.assert_array_equal(client.infer("m", given).outputs["y"], given * 2)

    def test_strings_go_both_ways(self, serving, client, tmp_path):
        serving.apply(version_plan(identity_onnx(tmp_path / "m.onnx", "BYTES")))
        given = np.array([["a", "ü"], [b"", b"\x00b"]], np.object_)
        result = client.infer("m", {"x": given}).outputs["y"]
        assert result.tolist() == [[b"a", "ü".encode()], [b"", b"\x00b"]]
        tensor = {"name": "x", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "ü"]}
        _, _, body = ask(serving.tcp, "POST", "/v2/models/m/infer", json.dumps({"inputs": [tensor]}))
        assert json.loads(body)["outputs"][0]["data"] == ["a", "ü"]

    def test_a_failing_run_is_one_sentence_and_counted(self, serving, client, tmp_path):
        version = version_plan(picky_onnx(tmp_path / "m.onnx"))
        serving.apply(version)
        with pytest.raises(ModelError, match="ONNX Runtime failed"):
            client.infer("m", np.ones((2, 3), np.float32))
        assert client.infer("m", np.eye(2, dtype=np.float32)).outputs["y"].shape == (2, 2)
        wait_until(lambda: serving.page.snapshot().slots[0].requests == 2)
        counts = serving.page.snapshot().slots[0]
        assert (counts.requests, counts.errors, counts.exposures) == (2, 1, 2)
        assert counts.run_ns > 0
        assert serving.page.snapshot().marks == ()

    def test_infinity_needs_binary_data(self, serving, client, tmp_path):
        serving.apply(version_plan(reciprocal_onnx(tmp_path / "m.onnx")))
        assert client.infer("m", np.zeros(1, np.float32)).outputs["y"].tolist() == [np.inf]
        tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [0]}
        answer = ask(serving.tcp, "POST", "/v2/models/m/infer", json.dumps({"inputs": [tensor]}))
        status, message = error(answer)
        assert status == 400
        assert "binary_data" in message

    def test_traffic_is_split_by_weight(self, serving, client, tmp_path):
        one = version_plan(scaling_onnx(tmp_path / "1.onnx", 1.0), "m", "1", weight=1)
        two = version_plan(scaling_onnx(tmp_path / "2.onnx", 2.0), "m", "2", weight=3)
        serving.apply(one, two)
        counts = {"1": 0, "2": 0}
        for _ in range(400):
            result = client.infer("m", X)
            np.testing.assert_array_equal(result.outputs["y"], X * float(result.model_version))
            counts[result.model_version] += 1
        assert 240 < counts["2"] < 360  # 300 expected; 60 is seven standard deviations
        assert client.infer("m", X, version="1").model_version == "1"
        slots = serving.page.snapshot().slots
        assert slots[serving.slot(one)].exposures + slots[serving.slot(two)].exposures == 400


class TestProtocol:
    @pytest.fixture(autouse=True)
    def model(self, serving, tmp_path):
        serving.apply(version_plan(identity_onnx(tmp_path / "m.onnx"), "m", "7"))

    def test_the_server_tells_about_itself(self, serving):
        _, _, body = ask(serving.tcp, "GET", "/v2")
        assert json.loads(body).keys() == {"name", "version", "extensions"}
        assert "binary_tensor_data" in json.loads(body)["extensions"]
        for path in (
            "/v2/health/live",
            "/v2/health/ready",
            "/v2/models/m/ready",
            "/v2/models/m/versions/7/ready",
        ):
            assert ask(serving.tcp, "GET", path)[0] == 200
        _, _, body = ask(serving.tcp, "GET", "/v2/models/m/versions/7")
        metadata = json.loads(body)
        assert metadata["versions"] == ["7"]
        assert metadata["platform"] == "onnxruntime_onnx"
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        _, _, body = ask(serving.tcp, "POST", "/v2/repository/index")
        assert json.loads(body) == [{"name": "m", "version": "7", "state": "READY", "reason": ""}]

    @pytest.mark.parametrize(
        ("method", "path", "status", "message"),
        [
            ("GET", "/", 404, "nothing at /"),
            ("GET", "/v2/nope", 404, "nothing at /v2/nope"),
            ("GET", "/v2/models", 404, "nothing at /v2/models"),
            ("GET", "/v2/models/", 404, ""),
            ("GET", "/v2/models/m/nope", 404, "nothing at"),
            ("GET", "/v2/models/none", 404, "no model 'none' here; the models are: m"),
            ("GET", "/v2/models/m/versions/8", 404, "no version '8' here; its versions are: 7"),
            ("POST", "/v2/models/none/infer", 404, "no model 'none'"),
            ("POST", "/v2/models/m/versions/8/infer", 404, "no version '8'"),
            ("GET", "/v2/models/m/infer", 405, "POST only"),
            ("POST", "/v2", 405, "GET, HEAD only"),
            ("DELETE", "/metrics", 405, "GET, HEAD only"),
            ("POST", "/v2/models/m/infer", 400, "not an inference request"),
        ],
    )
    def test_what_is_not_there_or_not_so_is_told(self, serving, method, path, status, message):
        answer = ask(serving.tcp, method, path)
        got_status, text = error(answer)
        assert got_status == status
        assert message in text
        if status == 405:
            assert answer[1]["Allow"] in ("POST", "GET, HEAD")

    def test_a_body_in_an_unknown_encoding_is_refused(self, serving):
        answer = ask(serving.tcp, "POST", "/v2/models/m/infer", b"x", {"Content-Encoding": "br"})
        status, message = error(answer)
        assert status == 415
        assert "'br' is not supported" in message

    def test_browsers_are_refused_on_tcp(self, serving):
        assert error(ask(serving.tcp, "GET", "/v2", headers={"Origin": "https://example.org"}))[0] == 403

    def test_the_metrics_port_has_metrics_and_health_alone(self, serving, client):
        client.infer("m", X)
        with pytest.raises(RequestError):
            client.infer("m", np.ones((1, 3), np.float32))
        status, headers, body = ask(serving.metrics, "GET", "/metrics")
        assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        text = body.decode()
        assert 'edge_agent_requests_total{model="m",version="7"} 2' in text
        assert 'edge_agent_request_errors_total{model="m",version="7",kind="request"} 1' in text
        assert 'edge_agent_request_duration_seconds_count{model="m",version="7"} 2' in text
        assert 'edge_agent_model_info{model="m",version="7",engine="onnx",precision="fp32"} 1' in text
        assert "edge_agent_serving_resident_memory_bytes " in text
        assert ask(serving.metrics, "GET", "/v2/health/ready")[0] == 200
        assert error(ask(serving.metrics, "GET", "/v2/models/m"))[0] == 404
        assert error(ask(serving.metrics, "POST", "/v2/models/m/infer"))[0] == 404

    def test_the_client_tells_errors_apart(self, client):
        with pytest.raises(NotFoundError, match="no model 'none'"):
            client.infer("none", {"x": X})
        with pytest.raises(RequestError, match="must be FP32, not 'INT64'"):
            client.infer("m", np.ones((1, 2), np.int64))
        with pytest.raises(RequestError, match="no input 'w'"):
            client.infer("m", {"w": X})
        with pytest.raises(RequestError, match="no output 'w'"):
            client.infer("m", X, outputs=["w"])


def test_what_is_too_large_is_refused(tmp_path):
    with ServingProcess(tmp_path, HttpSettings(max_body_bytes=100_000)) as serving:
        serving.apply(version_plan(identity_onnx(tmp_path / "m.onnx")))
        with (
            Client(serving.path) as client,
            pytest.raises(PayloadTooLargeError, match="larger than 100000 bytes"),
        ):
            client.infer("m", np.ones((1_000_000, 2), np.float32))
        with Client(f"http://{serving.tcp[0]}:{serving.tcp[1]}") as client:
            client.infer("m", X)


def test_a_full_queue_is_told_with_a_time_to_come_back(tmp_path):
    with ServingProcess(tmp_path, HttpSettings(queue_limit=1)) as serving:
        serving.apply(version_plan(slow_onnx(tmp_path / "m.onnx")))
        refused: list[UnavailableError] = []
        answered: list[object] = []

        def work():
            with Client(serving.path) as client:
                for _ in range(3):
                    try:
                        answered.append(client.infer("m", np.zeros((512, 512), np.float32)))
                    except UnavailableError as error:
                        refused.append(error)

        run_threads(work, 8)
        assert answered
        assert refused
        assert "wait already; try again later" in str(refused[0])
        assert refused[0].retry_after_s >= 1


def run_threads(work, count):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert not any(thread.is_alive() for thread in threads)


@contextmanager
def load(path, threads=8):
    """Run clients that infer all the time; yield the versions that answered and the errors, as they come."""
    versions: list[str] = []
    errors: list[EdgeAgentError] = []
    done = threading.Event()

    def work():
        with Client(path) as client:
            while not done.is_set():
                try:
                    result = client.infer("m", X)
                except EdgeAgentError as error:
                    errors.append(error)
                    return
                assert (result.outputs["y"] == X * float(result.model_version)).all()
                versions.append(result.model_version)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield versions, errors
    finally:
        done.set()
        for worker in workers:
            worker.join(LIMIT_S)


class TestPlans:
    def test_a_swap_under_load_fails_no_request(self, serving, tmp_path):
        plans = [version_plan(scaling_onnx(tmp_path / f"{n}.onnx", float(n)), "m", str(n)) for n in range(1, 6)]
        serving.apply(plans[0])
        with load(serving.path) as (versions, errors):
            for plan in [*plans[1:], plans[0]]:
                seen = len(versions)
                wait_until(lambda seen=seen: len(versions) > seen + 50 or errors)
                outcome = serving.apply(plan)
                assert isinstance(outcome, Applied)
                assert list(outcome.load_s) == [plan.key]
            seen = len(versions)
            wait_until(lambda: len(versions) > seen + 50 or errors)
        assert errors == []
        assert set(versions) == {"1", "2", "3", "4", "5"}
        assert serving.page.snapshot().marks == ()

    def test_what_is_served_already_is_kept(self, serving, client, tmp_path):
        one = version_plan(scaling_onnx(tmp_path / "1.onnx", 1.0), "m", "1")
        two = version_plan(scaling_onnx(tmp_path / "2.onnx", 2.0), "m", "2")
        assert serving.apply(one).load_s.keys() == {one.key}
        assert serving.apply(one, two).load_s.keys() == {two.key}
        assert serving.apply(two).load_s == {}
        assert {client.infer("m", X).model_version for _ in range(5)} == {"2"}
        assert serving.apply().load_s == {}
        with pytest.raises(NotFoundError, match="the models are: none"):
            client.infer("m", {"x": X})
        assert client.ready()

    @pytest.mark.parametrize("fault", ["no model", "missing file", "unknown engine", "other inputs"])
    def test_a_plan_that_cannot_be_served_changes_nothing(self, serving, client, tmp_path, fault):
        good = version_plan(scaling_onnx(tmp_path / "1.onnx", 1.0), "m", "1")
        serving.apply(good)
        path = tmp_path / "bad.onnx"
        path.write_bytes(b"no model" if fault == "no model" else good.path.encode())
        bad = version_plan(path, "other", "1")
        if fault == "missing file":
            path.unlink()
        elif fault == "unknown engine":
            bad = with_changes(bad, engine="nope")
        elif fault == "other inputs":
            other = version_plan(identity_onnx(tmp_path / "int.onnx", "INT8"), "other", "1")
            bad = with_changes(other, inputs=good_inputs())
        outcome = serving.apply(with_changes(good, version="2"), bad)
        assert isinstance(outcome, Refused)
        assert outcome.key == bad.key
        assert outcome.reason.endswith(".")
        assert client.infer("m", X).model_version == "1"
        assert [entry.name for entry in client.models()] == ["m"]

    def test_others_are_served_while_a_version_is_loaded(self, serving, tmp_path):
        serving.apply(version_plan(scaling_onnx(tmp_path / "1.onnx", 1.0), "m", "1"))
        with load(serving.path, threads=2) as (versions, errors):
            wait_until(lambda: len(versions) > 10 or errors)
            before = len(versions)
            serving.apply(
                version_plan(scaling_onnx(tmp_path / "2.onnx", 2.0), "m", "2"),
                version_plan(magika(), "magika", "1"),
            )
            assert len(versions) > before
        assert errors == []


def with_changes(plan, **changes):
    return dataclasses.replace(plan, **changes)


def good_inputs():
    return (TensorSpec("x", "FP32", (-1, 2)),)


class TestDrain:
    @pytest.mark.parametrize("how", ["drain", "terminate", "hang_up"])
    def test_it_ends_when_it_is_told(self, serving, tmp_path, how):
        with socket.socket(socket.AF_UNIX) as idle:
            idle.connect(str(serving.path))
            started_s = time.monotonic()
            getattr(serving, how)()
            assert serving.wait() == 0
            assert time.monotonic() - started_s < 5
            assert idle.recv(1) == b""

    def test_a_successor_takes_over_without_a_failed_request(self, serving, tmp_path):
        plan = version_plan(scaling_onnx(tmp_path / "1.onnx", 1.0), "m", "1")
        serving.apply(plan)
        with load(serving.path) as (versions, errors):
            for _ in range(2):
                seen = len(versions)
                wait_until(lambda seen=seen: len(versions) > seen + 200 or errors)
                old = serving.process
                serving.drain()
                assert old.wait(LIMIT_S) == 0
                serving.start()
                serving.apply(plan)
            seen = len(versions)
            wait_until(lambda: len(versions) > seen + 200 or errors)
        assert errors == []

    def test_requests_that_come_before_the_first_plan_are_held(self, serving, client, tmp_path):
        status, _, _ = ask(serving.tcp, "GET", "/v2/health/live")
        assert status == 200
        with socket.create_connection(serving.tcp, LIMIT_S) as early:
            early.sendall(b"GET /v2/models/m/ready HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: ask(serving.tcp, "GET", "/v2/health/ready")[0] == 400)
            serving.apply(version_plan(identity_onnx(tmp_path / "m.onnx")))
            assert early.recv(100).startswith(b"HTTP/1.1 200 OK")

    @pytest.mark.parametrize("how", ["drain", "terminate", "hang_up"])
    def test_requests_that_still_wait_when_it_stops_are_to_be_sent_again(self, serving, how):
        with socket.create_connection(serving.tcp, LIMIT_S) as early:
            early.sendall(b"GET /v2/models/m/ready HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: ask(serving.tcp, "GET", "/v2/health/ready")[0] == 400)
            getattr(serving, how)()
            assert early.recv(100).startswith(b"HTTP/1.1 503 ")
        assert serving.wait() == 0

    def test_what_runs_is_answered_before_the_end(self, serving, tmp_path):
        serving.apply(version_plan(slow_onnx(tmp_path / "m.onnx", rounds=40)))
        answers: list[object] = []

        def work():
            with Client(serving.path) as client:
                answers.append(client.infer("m", np.zeros((512, 512), np.float32)))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: serving.page.snapshot().slots[0].exposures == 4)
        serving.drain()
        for thread in threads:
            thread.join(LIMIT_S)
        assert len(answers) == 4
        assert serving.wait() == 0


def test_a_heartbeat_and_a_second_configuration(serving):
    serving.send(serving.configuration())
    first = serving.page.snapshot().heartbeat_ns
    assert first > 0
    wait_until(lambda: serving.page.snapshot().heartbeat_ns > first)
    wait_until(lambda: "needs a new process" in serving.log)
    with Client(serving.path) as client:
        assert not client.ready()  # no plan yet
        serving.apply()
        assert client.ready()
