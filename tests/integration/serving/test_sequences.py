"""Streaming models: the state of a sequence stays on the agent, as if the model were run by hand."""

import dataclasses
import http.client
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edge_agent.client import Client, InferResult
from edge_agent.documents.errors import RequestError
from edge_agent.documents.ipc import Applied
from edge_agent.documents.plan import StatePair, VersionPlan
from edge_agent.documents.settings import SequenceSettings
from support.agent import wait_until
from support.serving import ServingProcess, summing_onnx, version_plan
from support.speech import MODELS, RATE, recording

CHUNK, CONTEXT = 512, 64


def summing(folder: Path, version: str = "1", factor: float = 1.0) -> VersionPlan:
    plan = version_plan(summing_onnx(folder / f"{version}.onnx", factor), "sum", version)
    return dataclasses.replace(plan, state=(StatePair("before", "after"),))


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[ServingProcess]:
    with ServingProcess(tmp_path / "s") as process:
        yield process


@pytest.fixture
def client(serving: ServingProcess) -> Iterator[Client]:
    with Client(serving.path) as client:
        yield client


def step(
    client: Client,
    number: float,
    sequence: Any,
    *,
    start: bool = False,
    end: bool = False,
    rows: int = 1,
    **more: Any,
) -> InferResult:
    x = np.full((rows, 2), number, np.float32)
    parameters = {"sequence_id": sequence, "sequence_start": start, "sequence_end": end}
    return client.infer("sum", {"x": x}, parameters=parameters, **more)


def total(result: InferResult) -> float:
    assert set(result.outputs) == {"total"}
    return float(result.outputs["total"][0, 0])


def test_a_voice_detector_answers_as_if_run_by_hand(serving: ServingProcess, client: Client) -> None:
    """Silero VAD on a real recording, resampled from 8 to 16 kHz: two streams at a time, bit for bit."""
    model = MODELS / "silero_vad_16k_op15.onnx"
    plan = dataclasses.replace(version_plan(model, "vad"), state=(StatePair("state", "stateN"),))
    assert isinstance(serving.apply(plan), Applied)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    rate = np.array(RATE, np.int64)
    streams = {"forwards": recording(), "backwards": recording()[::-1].copy()}
    wanted: dict[str, list[float]] = {}
    for name, samples in streams.items():
        state, wanted[name] = np.zeros((2, 1, 128), np.float32), []
        for frame in frames(samples):
            answer, state = session.run(["output", "stateN"], {"input": frame, "state": state, "sr": rate})
            wanted[name].append(float(answer[0, 0]))
    found: dict[str, list[float]] = {name: [] for name in streams}
    chunks = [frames(samples) for samples in streams.values()]
    for number, pair in enumerate(zip(*chunks, strict=True)):
        for name, frame in zip(streams, pair, strict=True):
            parameters = {"sequence_id": name, "sequence_start": number == 0}
            result = client.infer("vad", {"input": frame, "sr": rate}, parameters=parameters)
            assert set(result.outputs) == {"output"}
            found[name].append(float(result.outputs["output"][0, 0]))
    assert found == wanted
    assert max(wanted["forwards"]) > 0.9 > 0.1 > min(wanted["forwards"])
    assert found["forwards"] != found["backwards"]


def frames(samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return [1, 576] for every 32 ms: the samples, after the last 64 of those before."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples])
    count = len(samples) // CHUNK
    return [padded[None, CHUNK * n : CHUNK * (n + 1) + CONTEXT] for n in range(count)]


class TestOrder:
    @pytest.fixture(autouse=True)
    def model(self, serving: ServingProcess, tmp_path: Path) -> None:
        assert isinstance(serving.apply(summing(tmp_path)), Applied)

    def test_each_sequence_has_a_state_of_its_own(self, client: Client) -> None:
        for number in range(1, 4):
            assert total(step(client, 1, "a", start=number == 1)) == number
            assert total(step(client, 10, 7, start=number == 1)) == 10 * number
            assert total(step(client, 10, "8", start=number == 1, rows=3)) == 10 * number
        assert total(step(client, 1, "7", end=True)) == 31
        with pytest.raises(RequestError, match="Sequence '7' of model 'sum' is not known here; begin it"):
            step(client, 1, 7)

    def test_a_start_begins_anew(self, client: Client) -> None:
        assert total(step(client, 5, "a", start=True)) == 5
        assert total(step(client, 1, "a")) == 6
        assert total(step(client, 1, "a", start=True)) == 1

    def test_start_and_end_may_be_one_request(self, client: Client) -> None:
        assert total(step(client, 5, "a", start=True, end=True)) == 5
        with pytest.raises(RequestError, match="is not known here"):
            step(client, 1, "a")

    def test_a_failed_request_leaves_the_state_as_it_was(self, client: Client) -> None:
        step(client, 5, "a", start=True, rows=2)
        with pytest.raises(RequestError, match="must have shape"):
            client.infer("sum", {"x": np.ones((1, 3), np.float32)}, parameters={"sequence_id": "a"})
        with pytest.raises(RequestError, match="started with a batch of 2, not 3; start another one"):
            step(client, 1, "a", rows=3)
        assert total(step(client, 1, "a", rows=2)) == 6

    def test_the_state_is_the_agents(self, client: Client) -> None:
        x = np.ones((1, 2), np.float32)
        with pytest.raises(RequestError, match="'before' is the sequence's state, which the agent keeps"):
            client.infer("sum", {"x": x, "before": x}, parameters={"sequence_id": 1, "sequence_start": True})
        assert step(client, 1, 2, start=True, outputs=["after"]).outputs["after"].tolist() == [[1, 1]]
        result = client.infer("sum", {"x": x, "before": x})
        assert result.outputs["after"].tolist() == [[2, 2]]

    @pytest.mark.parametrize("bad", [-1, True, 1.5, "x" * 200, [1]])
    def test_what_is_no_id(self, client: Client, bad: Any) -> None:
        with pytest.raises(RequestError, match="The parameter sequence_id must"):
            step(client, 1, bad, start=True)

    def test_requests_that_come_together_run_in_their_order(self, serving: ServingProcess) -> None:
        """Sent at once on one connection each, by as many threads, a hundred requests add up."""
        with Client(serving.path) as client:
            step(client, 0, "shared", start=True)
            results: list[float] = []
            threads = [
                threading.Thread(target=lambda: results.append(total(step(client, 1, "shared"))))
                for _ in range(40)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(results) == list(range(1, 41))


class TestBounds:
    @pytest.mark.parametrize(
        "settings",
        [SequenceSettings(max_count=3), SequenceSettings(max_bytes=3 * (500 + 8))],
        ids=["count", "bytes"],
    )
    def test_the_one_that_was_idle_longest_makes_room(self, tmp_path: Path, settings: SequenceSettings) -> None:
        with ServingProcess(tmp_path / "s", sequences=settings) as serving, Client(serving.path) as client:
            serving.apply(summing(tmp_path))
            for name in "abc":
                step(client, 1, name, start=True)
            assert total(step(client, 1, "a")) == 2
            step(client, 1, "d", start=True)
            assert total(step(client, 1, "a")) == 3
            with pytest.raises(RequestError, match="'b' of model 'sum' is not known here"):
                step(client, 1, "b")

    def test_one_that_is_idle_for_too_long_is_forgotten(self, tmp_path: Path) -> None:
        settings = SequenceSettings(idle_s=0.3)
        with ServingProcess(tmp_path / "s", sequences=settings) as serving, Client(serving.path) as client:
            serving.apply(summing(tmp_path))
            step(client, 1, "a", start=True)
            assert kept(serving) == 1
            wait_until(lambda: not kept(serving), "the sequence to be forgotten", 5.0)
            with pytest.raises(RequestError, match=r"as it was idle for over 0\.3 s"):
                step(client, 1, "a")


def kept(serving: ServingProcess) -> int:
    """Return how many sequences there are."""
    connection = http.client.HTTPConnection(*serving.metrics, timeout=20)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("edge_agent_sequences "))


def test_a_swap_lets_sequences_end_on_the_version_they_began_on(
    serving: ServingProcess, client: Client, tmp_path: Path
) -> None:
    assert isinstance(serving.apply(summing(tmp_path, "1", 1.0)), Applied)
    step(client, 1, "old", start=True)
    assert isinstance(serving.apply(summing(tmp_path, "2", 100.0)), Applied)
    old, new = step(client, 1, "old"), step(client, 1, "new", start=True)
    assert (total(old), old.model_version) == (2, "1")
    assert (total(new), new.model_version) == (100, "2")
    with pytest.raises(RequestError, match="goes on with version 1 alone"):
        step(client, 1, "old", version="2")
    assert total(step(client, 1, "old", end=True)) == 3
    with pytest.raises(RequestError, match="is not known here"):
        step(client, 1, "old")
    assert total(step(client, 1, "new")) == 200
