"""gRPC in the serving process: its life beside HTTP, and what happens without it."""

import grp
import os
import socket
import stat
import threading

import grpc
import numpy as np
import pytest

from edge_agent.client import Client
from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import GrpcSettings, HttpSettings
from edge_agent.serving.rpc.messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from support.agent import AgentProcess
from support.serving import LIMIT_S, ServingProcess, identity_onnx, slow_onnx, version_plan

X = np.array([[1, 2]], np.float32)
SERVICE = "/inference.GRPCInferenceService"
BOTH = GrpcSettings(socket=True, tcp_port=0)


@pytest.fixture
def serving(tmp_path):
    with ServingProcess(tmp_path / "s", grpc=BOTH) as process:
        yield process


@pytest.fixture
def channel(serving):
    with grpc.insecure_channel(serving.grpc_unix) as channel:
        yield channel


def request(array=X, model="m"):
    return ModelInferRequest(
        model_name=model,
        inputs=[{"name": "x", "datatype": "FP32", "shape": array.shape}],
        raw_input_contents=[array.tobytes()],
    )


def big():
    return request(np.full((512, 512), 1e-3, np.float32), "slow")


def infer(channel):
    return channel.unary_unary(
        f"{SERVICE}/ModelInfer", ModelInferRequest.SerializeToString, ModelInferResponse.FromString
    )


def stream(channel):
    return channel.stream_stream(
        f"{SERVICE}/ModelStreamInfer",
        ModelInferRequest.SerializeToString,
        ModelStreamInferResponse.FromString,
    )


def loaded_libraries(serving):
    return (serving.proc / "maps").read_text()


def test_without_it_nothing_of_grpc_is_loaded(tmp_path):
    with ServingProcess(tmp_path / "s") as serving:
        assert "cygrpc" not in loaded_libraries(serving)
        assert "google/_upb" not in loaded_libraries(serving)


def test_the_socket_has_the_mode_and_group_of_the_other(tmp_path):
    group = grp.getgrgid(os.getgid()).gr_name
    http = HttpSettings(socket_mode=0o620, socket_group=group)
    with ServingProcess(tmp_path / "s", http, GrpcSettings(socket=True)) as serving:
        status = serving.path.with_name("grpc.sock").stat()
        assert stat.S_IMODE(status.st_mode) == 0o620
        assert status.st_gid == os.getgid()


def test_calls_before_the_first_plan_wait_for_it(tmp_path, serving, channel):
    early = infer(channel).future(request(), timeout=LIMIT_S)
    streamed = stream(channel)(iter([request()]), timeout=LIMIT_S)
    path = identity_onnx(tmp_path / "m.onnx")
    assert isinstance(serving.apply(version_plan(path)), Applied)
    assert early.result().raw_output_contents == [X.tobytes()]
    assert [answer.infer_response.raw_output_contents for answer in streamed] == [[X.tobytes()]]


def test_calls_before_the_first_plan_are_refused_by_a_server_that_stops(serving, channel):
    early = infer(channel).future(request(), timeout=LIMIT_S)
    live = channel.unary_unary(f"{SERVICE}/ServerLive")
    assert live(b"", timeout=LIMIT_S) == b"\x08\x01"
    serving.drain()
    assert early.exception().code() == grpc.StatusCode.UNAVAILABLE
    assert dict(early.trailing_metadata())["retry-after"] == "1"
    assert serving.wait() == 0


def test_a_drain_answers_what_has_begun(tmp_path, serving, channel):
    plans = [
        version_plan(identity_onnx(tmp_path / "m.onnx")),
        version_plan(slow_onnx(tmp_path / "slow.onnx"), "slow"),
    ]
    assert isinstance(serving.apply(*plans), Applied)
    begun = threading.Event()
    hold = threading.Event()

    def requests():
        yield request()
        yield big()
        begun.set()
        hold.wait(LIMIT_S)

    answers = stream(channel)(requests(), timeout=LIMIT_S)
    assert next(answers).infer_response.raw_output_contents == [X.tobytes()]
    running = infer(channel).future(big(), timeout=LIMIT_S)
    assert begun.wait(LIMIT_S)
    assert next(answers).infer_response.model_name == "slow"
    serving.drain()
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    hold.set()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert running.result().model_name == "slow"
    assert serving.wait() == 0
    assert not serving.path.with_name("grpc.sock").exists()


def test_a_killed_process_leaves_its_addresses_to_the_next(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = identity_onnx(tmp_path / "m.onnx")
    with ServingProcess(tmp_path / "s", grpc=GrpcSettings(socket=True, tcp_port=port)) as serving:
        for _ in range(2):
            serving.apply(version_plan(path))
            for address in (serving.grpc_unix, f"127.0.0.1:{port}"):
                with grpc.insecure_channel(address) as channel:
                    assert infer(channel)(request(), timeout=LIMIT_S).model_name == "m"
            serving.process.kill()
            serving.wait()
            serving.start()
            assert "Cannot listen" not in serving.log


def test_a_taken_port_is_told_and_all_else_is_served(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        grpc_settings = GrpcSettings(tcp_port=port)
        with ServingProcess(tmp_path / "s", grpc=grpc_settings) as serving, Client(serving.path) as client:
            (problem,) = serving.impaired
            assert problem.startswith(f"Cannot listen for gRPC on 127.0.0.1 port {port}")
            assert problem in serving.log
            serving.apply(version_plan(identity_onnx(tmp_path / "m.onnx")))
            assert client.ready()


def test_a_missing_package_is_told_and_all_else_is_served(tmp_path, monkeypatch):
    # As an installation without the extra has it.
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "grpc.py").write_text("raise ModuleNotFoundError(\"No module named 'grpc'\", name='grpc')\n")
    monkeypatch.setenv("PYTHONPATH", f"{hidden}:{os.environ.get('PYTHONPATH', '')}")
    with ServingProcess(tmp_path / "s", grpc=BOTH) as serving, Client(serving.path) as client:
        (problem,) = serving.impaired
        assert "No module named 'grpc'" in problem
        assert "pip install 'edge-inference-agent[grpc]'" in problem
        serving.apply(version_plan(identity_onnx(tmp_path / "m.onnx")))
        assert client.ready()


def test_an_agent_serves_it_in_its_runtime_folder(tmp_path):
    with AgentProcess(tmp_path / "agent", {"grpc": {"socket": True}}) as agent:
        with grpc.insecure_channel(f"unix:{agent.runtime / 'grpc.sock'}") as channel:
            ready = channel.unary_unary(f"{SERVICE}/ServerReady")
            assert ready(b"", timeout=LIMIT_S, wait_for_ready=True) == b"\x08\x01"
        assert agent.reported().problems == ()
    assert not (agent.runtime / "grpc.sock").exists()


def test_an_agent_reports_that_it_cannot_serve_it(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with AgentProcess(tmp_path / "agent", {"grpc": {"tcp_port": port}}) as agent:
            (problem,) = agent.reported().problems
            assert problem.startswith(f"Cannot listen for gRPC on 127.0.0.1 port {port}")
            assert [event.message for event in agent.events("warning")] == [problem]
