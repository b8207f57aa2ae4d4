"""Sequences by Triton's own clients, unmodified, over HTTP and gRPC."""

import dataclasses
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from onnx import helper
from tritonclient.utils import InferenceServerException

from edge_agent.documents.plan import StatePair
from edge_agent.documents.settings import GrpcSettings
from support.serving import ServingProcess, save_onnx, version_plan


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    folder: Path = tmp_path_factory.mktemp("sequences")
    tensor = ("INT32", ["n", 1])
    nodes = [
        helper.make_node("Add", ["x", "before"], ["after"]),
        helper.make_node("Identity", ["after"], ["y"]),
    ]
    model = save_onnx(folder / "m.onnx", nodes, {"x": tensor, "before": tensor}, {"y": tensor, "after": tensor})
    with ServingProcess(folder / "s", grpc=GrpcSettings(socket=True)) as process:
        plan = dataclasses.replace(version_plan(model), state=(StatePair("before", "after"),))
        process.apply(plan)
        yield process


@pytest.fixture
def url(serving: ServingProcess) -> str:
    return "{}:{}".format(*serving.tcp)


def send(client: triton.InferenceServerClient, number: int, sequence: Any, **flags: bool) -> int:
    tensor = triton.InferInput("x", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[number]], np.int32))
    return int(client.infer("m", [tensor], sequence_id=sequence, **flags).as_numpy("y")[0, 0])


@pytest.mark.parametrize(("one", "other"), [(1, 2), ("one", "other")])
def test_two_sequences_at_a_time(url: str, one: Any, other: Any) -> None:
    with triton.InferenceServerClient(url) as client:
        assert "sequence" in client.get_server_metadata()["extensions"]
        assert client.get_model_config("m")["sequence_batching"]["state"][0]["input_name"] == "before"
        for number in range(1, 6):
            flags = {"sequence_start": number == 1, "sequence_end": number == 5}
            assert send(client, 1, one, **flags) == number
            assert send(client, -1, other, **flags) == -number
        with pytest.raises(InferenceServerException, match="begin it with sequence_start"):
            send(client, 1, one)


def over_grpc(number: int) -> Any:
    tensor = triton_grpc.InferInput("x", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[number]], np.int32))
    return tensor


@pytest.mark.parametrize(("one", "other"), [(11, 12), ("gone", "gother")])
def test_two_sequences_at_a_time_over_grpc(serving: ServingProcess, one: Any, other: Any) -> None:
    with triton_grpc.InferenceServerClient(serving.grpc_unix) as client:
        for number in range(1, 6):
            for name, sign in ((one, 1), (other, -1)):
                result = client.infer(
                    "m",
                    [over_grpc(sign)],
                    sequence_id=name,
                    sequence_start=number == 1,
                    sequence_end=number == 5,
                )
                assert int(result.as_numpy("y")[0, 0]) == sign * number
        with pytest.raises(InferenceServerException, match="begin it with sequence_start"):
            client.infer("m", [over_grpc(1)], sequence_id=one)


def test_a_stream_of_grpc_sends_a_sequence_without_waiting(serving: ServingProcess) -> None:
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    with triton_grpc.InferenceServerClient(serving.grpc_unix) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(1, 33):
            client.async_stream_infer(
                "m", [over_grpc(1)], sequence_id=21, sequence_start=number == 1, sequence_end=number == 32
            )
        for number in range(1, 33):
            result, error = answers.get(timeout=20)
            assert error is None
            assert int(result.as_numpy("y")[0, 0]) == number
        client.stop_stream()
