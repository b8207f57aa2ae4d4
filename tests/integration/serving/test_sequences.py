"""A real serving process: the states of streaming models, from request to request, whatever comes between."""

import os
import threading
import time
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
from support.serving import ServingProcess, identity_onnx, streaming_plan, summing_onnx, version_plan


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
        assert isinstance(process.apply(streaming_plan(summing_onnx(tmp_path / "1.onnx"))), Applied)
        yield process


@pytest.fixture
def client(serving: ServingProcess) -> Iterator[Client]:
    with Client(serving.path) as client:
        yield client


def test_the_state_goes_from_request_to_request_until_the_end(client: Client) -> None:
    one, other = App(client, 1), App(client, "one")
    assert one.ask(1, 2, start=True) == [1, 2]
    assert other.ask(10, 20, start=True) == [10, 20]
    assert one.ask(1, 2) == [2, 4]
    assert one.ask(1, 2, end=True) == [3, 6]
    with pytest.raises(RequestError, match="must specify the START flag on the first request of the sequence"):
        one.ask(1, 2)
    assert other.ask(10, 20) == [20, 40]
    assert one.ask(5, 5, start=True) == [5, 5]
    assert one.ask(7, 7, start=True) == [7, 7]
    assert one.ask(1, 1) == [8, 8]
    assert one.ask(9, 9, start=True, end=True) == [9, 9]


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


@pytest.mark.parametrize("bad", [0, -1, 2**64, 1.5, True, "", "x" * 129, None, [1]])
def test_what_is_no_id_is_refused(client: Client, bad: Any) -> None:
    with pytest.raises(RequestError, match="parameter sequence_id must be a whole number from 1 or a text"):
        App(client, bad).ask(1, 2, start=True)


def test_flags_that_are_none_and_flags_without_an_id_are_refused(client: Client) -> None:
    with pytest.raises(RequestError, match="sequence_start must be true or false"):
        App(client, 1).ask(1, 2, start=1)
    with pytest.raises(RequestError, match="parameter sequence_id must be"):
        client.infer("m", {"x": np.ones((1, 2), np.float32)}, parameters={"sequence_start": True})


def test_a_batch_has_a_state_of_its_size(client: Client) -> None:
    app = App(client, 1)
    app.result(1, 2, rows=3, start=True)
    assert app.result(1, 2, rows=3).outputs["y"].tolist() == [[2, 4]] * 3


def test_requests_of_one_sequence_run_one_at_a_time_and_none_is_lost(
    serving: ServingProcess, tmp_path: Path
) -> None:
    plan = streaming_plan(summing_onnx(tmp_path / "slow.onnx", rounds=1))
    serving.apply(plan)
    values = [2.0**exponent for exponent in range(8)]
    answers: list[float] = []
    with Client(serving.path) as client:
        app = App(client, 1)
        app.ask(0, 0, start=True)
        threads = [
            threading.Thread(target=lambda value=value: answers.append(app.ask(value, 0)[0]))
            for value in values
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        steps = np.diff([0.0, *sorted(answers)])
        assert sorted(steps) == values
        assert app.ask(0, 0) == [sum(values), 0]


def test_sequences_run_side_by_side(serving: ServingProcess, tmp_path: Path) -> None:
    count = min(2, len(os.sched_getaffinity(0)))
    serving.apply(streaming_plan(summing_onnx(tmp_path / "slow.onnx", rounds=20)))
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
    serving.apply(streaming_plan(summing_onnx(tmp_path / "2.onnx", factor=100), version="2"))
    assert late.ask(1, 1, start=True) == [100, 100]
    answer = app.result(1, 1)
    assert (answer.model_version, answer.outputs["y"].tolist()) == ("1", [[2, 2]])
    assert app.ask(1, 1, version="1") == [3, 3]
    with pytest.raises(RequestError, match="runs on version '1', not '2'"):
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
    old = streaming_plan(summing_onnx(tmp_path / "1.onnx"))
    new = streaming_plan(summing_onnx(tmp_path / "2.onnx", factor=100), version="2")
    serving.reuse_slot(old, new)
    serving.apply(new)
    with pytest.raises(RequestError, match="as an update has ended it; start it again") as caught:
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


def test_too_many_make_room_by_the_one_that_was_idle_longest(tmp_path: Path) -> None:
    with ServingProcess(tmp_path / "s", sequences=SequenceSettings(max_count=3)) as serving:
        serving.apply(streaming_plan(summing_onnx(tmp_path / "1.onnx")))
        with Client(serving.path) as client:
            apps = [App(client, number) for number in range(1, 5)]
            for app in apps[:3]:
                app.ask(1, 1, start=True)
            apps[0].ask(1, 1)
            apps[3].ask(1, 1, start=True)
            with pytest.raises(RequestError, match="it made room for others") as caught:
                apps[1].ask(1, 1)
            assert caught.value.status == 410
            assert [apps[number].ask(1, 1)[0] for number in (0, 2, 3)] == [3, 2, 2]


def test_states_are_bounded_in_bytes(tmp_path: Path) -> None:
    with ServingProcess(tmp_path / "s", sequences=SequenceSettings(max_bytes=4096)) as serving:
        serving.apply(streaming_plan(summing_onnx(tmp_path / "1.onnx")))
        with Client(serving.path) as client:
            with pytest.raises(EdgeAgentError, match=r"takes 5024 bytes, sequences\.max_bytes allows 4096"):
                App(client, 1).ask(1, 1, rows=500, start=True)
            large, small = App(client, 2), App(client, 3)
            large.ask(1, 1, rows=300, start=True)
            small.ask(1, 1, start=True)
            with pytest.raises(RequestError, match="it made room for others"):
                large.ask(1, 1, rows=300)
            small.ask(1, 1)


def test_an_idle_sequence_is_forgotten(tmp_path: Path) -> None:
    with ServingProcess(tmp_path / "s", sequences=SequenceSettings(idle_s=0.2)) as serving:
        serving.apply(streaming_plan(summing_onnx(tmp_path / "1.onnx")))
        with Client(serving.path) as client:
            app = App(client, 1)
            app.ask(1, 1, start=True)
            used_s = time.monotonic()
            wait_until(lambda: time.monotonic() > used_s + 0.25, "time to pass")
            with pytest.raises(RequestError, match=r"it was idle for over 0\.2 s") as caught:
                app.ask(1, 1)
            assert caught.value.status == 410


def test_a_restart_loses_sequences_and_says_so(serving: ServingProcess, client: Client, tmp_path: Path) -> None:
    app = App(client, 1)
    app.ask(1, 1, start=True)
    serving.process.kill()
    serving.wait()
    serving.start()
    serving.apply(streaming_plan(summing_onnx(tmp_path / "1.onnx")))
    with pytest.raises(RequestError, match="also after a restart of the server"):
        app.ask(1, 1)
    assert app.ask(1, 1, start=True) == [1, 1]


def test_who_waits_for_others_of_its_sequence_keeps_its_deadline(
    serving: ServingProcess, client: Client, tmp_path: Path
) -> None:
    serving.apply(streaming_plan(summing_onnx(tmp_path / "slow.onnx", rounds=40)))
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
