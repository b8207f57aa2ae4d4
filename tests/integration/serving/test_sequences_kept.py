"""A real serving process: what a sequence outlives, and what ends it."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.client import Client
from edge_agent.documents.errors import DeadlineExceededError, EdgeAgentError, RequestError
from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import CacheSettings, SequenceSettings
from support.agent import wait_until
from support.serving import ServingProcess, identity_onnx, streaming_plan, totalling_onnx, version_plan


class App:
    """Asks as one app does that has an id for its sequence."""

    def __init__(self, client: Client, sequence: int | str, model: str = "m") -> None:
        self.client = client
        self.sequence = sequence
        self.model = model

    def result(self, *values: float, version: str | None = None, rows: int = 1, **more: Any) -> Any:
        flags = {f"sequence_{name}": more.pop(name) for name in ("start", "end") if name in more}
        parameters = {"sequence_id": self.sequence, **flags, **more.pop("parameters", {})}
        x = np.array([values] * rows, np.float32)
        return self.client.infer(
            self.model, {"x": x, **more.pop("inputs", {})}, version, parameters=parameters, **more
        )

    def ask(self, *values: float, **more: Any) -> list[Any]:
        answer: NDArray[Any] = self.result(*values, **more).outputs["y"]
        return list(answer[0].tolist())


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[ServingProcess]:
    with ServingProcess(tmp_path / "s", cache=CacheSettings()) as process:
        assert isinstance(process.apply(streaming_plan(totalling_onnx(tmp_path / "1.onnx"))), Applied)
        yield process


@pytest.fixture
def client(serving: ServingProcess) -> Iterator[Client]:
    with Client(serving.path) as client:
        yield client


def test_the_state_is_the_agents_matter_unless_it_is_asked_for(client: Client) -> None:
    app = App(client, 1)
    plain = app.result(1, 2, start=True)
    assert list(plain.outputs) == ["y"]
    assert plain.parameters["cache"] == "bypass"
    full = app.result(1, 2, outputs=["total", "y"])
    assert full.outputs["total"].tolist() == [[2, 4]]
    with pytest.raises(RequestError, match="'before' is the sequence's state, which the agent keeps"):
        app.ask(1, 2, inputs={"before": np.zeros((1, 2), np.float32)})
    x = np.ones((1, 2), np.float32)
    by_hand = client.infer("m", {"x": x, "before": x})
    assert sorted(by_hand.outputs) == ["total", "y"]
    with pytest.raises(RequestError, match="input 'before' is missing"):
        client.infer("m", {"x": x})
    assert client.metadata("m").parameters["state"] == [["before", "total"]]
    assert app.ask(1, 2) == [3, 6]


def test_a_request_that_fails_leaves_the_state_as_it_was(client: Client) -> None:
    app = App(client, 1)
    assert app.ask(1, 1, start=True) == [1, 1]
    with pytest.raises(RequestError, match="must have shape"):
        app.ask(1, 2, 3)
    with pytest.raises(RequestError, match="started with a batch of 1, not 2"):
        app.ask(1, 2, rows=2)
    with pytest.raises(RequestError, match="must have shape"):
        app.ask(1, 2, 3, end=True)
    with pytest.raises(RequestError, match="must have shape"):
        app.ask(1, 2, 3, start=True)
    assert app.ask(1, 1) == [2, 2]


def test_sequences_run_side_by_side(serving: ServingProcess, tmp_path: Path) -> None:
    count = min(2, len(os.sched_getaffinity(0)))
    serving.apply(streaming_plan(totalling_onnx(tmp_path / "slow.onnx", rounds=20)))
    gauge = 'edge_agent_requests_in_flight{model="m",version="1"} '
    with Client(serving.path) as client:
        threads = [
            threading.Thread(target=App(client, number).ask, args=(1, 1), kwargs={"start": True})
            for number in range(1, count + 1)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: f"{gauge}{count}" in serving.metrics_text(), "two at a time")
        for thread in threads:
            thread.join()


def test_a_sequence_stays_on_the_version_that_it_began_on(
    serving: ServingProcess, client: Client, tmp_path: Path
) -> None:
    app, late = App(client, 1), App(client, 2)
    assert app.ask(1, 1, start=True) == [1, 1]
    serving.apply(streaming_plan(totalling_onnx(tmp_path / "2.onnx", factor=100), version="2"))
    assert late.ask(1, 1, start=True) == [100, 100]
    answer = app.result(1, 1)
    assert (answer.model_version, answer.outputs["y"].tolist()) == ("1", [[2, 2]])
    assert app.ask(1, 1, version="1") == [3, 3]
    with pytest.raises(RequestError, match="goes on with version 1 alone"):
        app.ask(1, 1, version="2")
    assert app.ask(1, 1, end=True) == [4, 4]
    assert app.ask(1, 1, start=True) == [100, 100]
    serving.apply()
    assert app.ask(1, 1) == [200, 200]


def test_a_sequence_ends_with_a_second_update_that_needs_its_slot(
    serving: ServingProcess, client: Client, tmp_path: Path
) -> None:
    app = App(client, 1)
    app.ask(1, 1, start=True)
    old = streaming_plan(totalling_onnx(tmp_path / "1.onnx"))
    new = streaming_plan(totalling_onnx(tmp_path / "2.onnx", factor=100), version="2")
    serving.reuse_slot(old, new)
    serving.apply(new)
    with pytest.raises(RequestError, match="as an update has ended it; begin it with") as caught:
        app.ask(1, 1)
    assert caught.value.status == 410
    assert app.ask(1, 1, start=True) == [100, 100]


def test_other_models_take_sequences_for_the_version_alone(
    serving: ServingProcess, client: Client, tmp_path: Path
) -> None:
    file = identity_onnx(tmp_path / "identity.onnx")
    serving.apply(version_plan(file, "plain", "1", 0.5), version_plan(file, "plain", "2", 0.5))
    for number in range(1, 9):
        app = App(client, number, "plain")
        first = app.result(1, 2, start=True).model_version
        assert {app.result(1, 2).model_version for _ in range(8)} == {first}


def test_states_are_bounded_in_bytes(tmp_path: Path) -> None:
    with ServingProcess(tmp_path / "s", sequences=SequenceSettings(max_bytes=4096)) as serving:
        serving.apply(streaming_plan(totalling_onnx(tmp_path / "1.onnx")))
        with Client(serving.path) as client:
            with pytest.raises(EdgeAgentError, match=r"takes 4500 bytes, sequences\.max_bytes allows 4096"):
                App(client, 1).ask(1, 1, rows=500, start=True)
            large, small = App(client, 2), App(client, 3)
            large.ask(1, 1, rows=440, start=True)
            small.ask(1, 1, start=True)
            with pytest.raises(RequestError, match="it made room for others"):
                large.ask(1, 1, rows=440)
            small.ask(1, 1)


def test_a_restart_loses_sequences_and_says_so(serving: ServingProcess, client: Client, tmp_path: Path) -> None:
    app = App(client, 1)
    app.ask(1, 1, start=True)
    serving.process.kill()
    serving.wait()
    serving.start()
    serving.apply(streaming_plan(totalling_onnx(tmp_path / "1.onnx")))
    with pytest.raises(RequestError, match="also after a restart of the server"):
        app.ask(1, 1)
    assert app.ask(1, 1, start=True) == [1, 1]


def test_who_waits_for_others_of_its_sequence_keeps_its_deadline(
    serving: ServingProcess, client: Client, tmp_path: Path
) -> None:
    serving.apply(streaming_plan(totalling_onnx(tmp_path / "slow.onnx", rounds=40)))
    gauge = 'edge_agent_requests_in_flight{model="m",version="1"} 1'
    app = App(client, 1)
    first = threading.Thread(target=app.ask, args=(1, 1), kwargs={"start": True})
    first.start()
    wait_until(lambda: gauge in serving.metrics_text(), "the first to run")
    with pytest.raises(DeadlineExceededError):
        app.ask(1, 1, parameters={"timeout": 1000})
    assert gauge in serving.metrics_text()
    first.join()
    assert app.ask(1, 1) == [2, 2]


def test_the_clients_sequence_begins_with_its_first_request_that_is_answered(client: Client) -> None:
    sequence = client.sequence("m")
    with pytest.raises(RequestError, match="must have shape"):
        sequence.infer({"x": np.ones((1, 3), np.float32)})
    x = {"x": np.ones((1, 2), np.float32)}
    assert sequence.infer(x).outputs["y"].tolist() == [[1, 1]]
    assert sequence.infer(x, end=True).outputs["y"].tolist() == [[2, 2]]
    assert sequence.infer(x).outputs["y"].tolist() == [[1, 1]]
