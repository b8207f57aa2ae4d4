"""Sequences by Triton's own clients, unmodified."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from onnx import helper
from tritonclient.utils import InferenceServerException

from edge_agent.documents.plan import StatePair
from support.serving import ServingProcess, save_onnx, version_plan


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("sequences")
    tensor = ("INT32", ["n", 1])
    nodes = [
        helper.make_node("Add", ["x", "before"], ["after"]),
        helper.make_node("Identity", ["after"], ["y"]),
    ]
    model = save_onnx(folder / "m.onnx", nodes, {"x": tensor, "before": tensor}, {"y": tensor, "after": tensor})
    with ServingProcess(folder / "s") as process:
        plan = dataclasses.replace(version_plan(model), state=(StatePair("before", "after"),))
        process.apply(plan)
        yield "{}:{}".format(*process.tcp)


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
