"""A real serving process: requests run together, in slices, by priority, and not after their time is over."""

import dataclasses
import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edge_agent.documents.errors import RequestError
from edge_agent.documents.plan import BatchingPlan, ModelPlan, VersionPlan
from edge_agent.documents.settings import HttpSettings
from support.agent import wait_until
from support.remembering import Serving, answer_of, identity_onnx, noisy_onnx, version_plan
from support.serving import save_onnx

BUSY = "edge_agent_requests_in_flight"
CPUS = len(os.sched_getaffinity(0))


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path) as process:
        yield process


def batched(path: Path, max_batch: int = 64, version: str = "1") -> VersionPlan:
    """Return the plan of a model whose first dimension is a batch."""
    return dataclasses.replace(version_plan(path, version=version), max_batch=max_batch)


def policy(max_size: int, **options: Any) -> ModelPlan:
    return ModelPlan("m", batching=BatchingPlan(max_size, **options))


def body(*rows: float, wanted: Sequence[str] = ("y", "z"), datatype: str = "FP32", **parameters: Any) -> Any:
    tensor = {"name": "x", "datatype": datatype, "shape": [len(rows), 1], "data": rows}
    return {
        "inputs": [tensor],
        "outputs": [{"name": name} for name in wanted],
        "parameters": {"cache": False, **parameters},
    }


def outputs(answer: tuple[int, dict[str, Any]]) -> dict[str, list[float]]:
    status, content = answer
    assert status == 200, content
    return {output["name"]: output["data"] for output in content["outputs"]}


def queued_onnx(path: Path) -> Path:
    """Write the noisy model so that a run takes some milliseconds: too long for the event loop's thread."""
    return noisy_onnx(path, size=512, rounds=1)


class Busy:
    """Keeps all workers busy with another model for a second or so."""

    def __init__(
        self, serving: Serving, folder: Path, *versions: VersionPlan, policies: Sequence[ModelPlan] = ()
    ) -> None:
        slow = version_plan(noisy_onnx(folder / "busy.onnx", size=2048, rounds=6), "busy")
        serving.apply(slow, *versions, policies=policies)
        self._serving = serving
        self._runs: list[socket.socket] = []

    def __enter__(self) -> "Busy":
        self._runs = [
            self._serving.post(body(float(number)), path="/v2/models/busy/infer") for number in range(CPUS)
        ]
        self.wait_for(f'{BUSY}{{model="busy",version="1"}}', CPUS)
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            assert answer_of(run)[0] == 200

    def wait_for(self, sample: str, value: float) -> None:
        wait_until(lambda: self._serving.metrics().get(sample) == value, f"{sample} to be {value}")

    def post(self, *bodies: Any) -> list[socket.socket]:
        """Send requests to the model `m` one after the other, and wait until all of them wait."""
        connections = []
        for content in bodies:
            connections.append(self._serving.post(content))
            self.wait_for(f'{BUSY}{{model="m",version="1"}}', len(connections))
        assert self._serving.metrics()[f'{BUSY}{{model="busy",version="1"}}'] == CPUS, "they ran out too early"
        return connections


class TestBatches:
    """The noisy model adds a random number to all rows of a run: equal numbers are one run's."""

    def test_those_that_wait_are_run_together(self, serving: Serving, tmp_path: Path) -> None:
        model = batched(queued_onnx(tmp_path / "m.onnx"))
        with Busy(serving, tmp_path, model, policies=[policy(6)]) as busy:
            waiting = busy.post(
                *[body(*range(10 * n, 10 * n + 1 + n % 2)) for n in range(5)], body(1.0, wanted=["y"])
            )
        answers = [outputs(answer_of(connection)) for connection in waiting]
        for number, answer in enumerate(answers[:5]):
            assert answer["z"] == [-float(10 * number + row) for row in range(1 + number % 2)]
        noise = [answer["y"][0] - x for answer, x in zip(answers, (0, 10, 20, 30, 40, 1), strict=True)]
        # Rows 1, 2, 1 and 2 are six; the fifth has no room, and the sixth wants other outputs.
        assert noise[:4] == pytest.approx([noise[0]] * 4, abs=1e-5)
        assert len({round(value, 4) for value in (noise[0], noise[4], noise[5])}) == 3

    def test_nothing_is_without_a_limit_in_the_manifest(self, serving: Serving, tmp_path: Path) -> None:
        model = version_plan(queued_onnx(tmp_path / "m.onnx"))
        with Busy(serving, tmp_path, model, policies=[policy(6)]) as busy:
            waiting = busy.post(body(1.0), body(2.0))
        one, two = (outputs(answer_of(connection))["y"][0] for connection in waiting)
        assert two - one != pytest.approx(1.0, abs=1e-5)

    def test_a_poisoned_request_fails_alone(self, serving: Serving, tmp_path: Path) -> None:
        constants = {"table": np.arange(10, dtype=np.float32), "zero": np.zeros((), np.float32)}
        nodes = [
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
            for name, value in constants.items()
        ]
        # It takes long enough not to run on the event loop's thread, and the noise is multiplied by 0.
        nodes.append(helper.make_node("RandomNormal", [], ["t0"], shape=[512, 512]))
        nodes += [helper.make_node("MatMul", [f"t{n}", "t0"], [f"t{n + 1}"]) for n in range(2)]
        nodes += [
            helper.make_node("ReduceMean", ["t2"], ["r"], keepdims=0),
            helper.make_node("Mul", ["r", "zero"], ["nothing"]),
            helper.make_node("Gather", ["table", "x"], ["found"]),
            helper.make_node("Add", ["found", "nothing"], ["y"]),
        ]
        model = save_onnx(tmp_path / "m.onnx", nodes, {"x": ("INT64", ["n", 1])}, {"y": ("FP32", ["n", 1])})
        with Busy(serving, tmp_path, batched(model), policies=[policy(8)]) as busy:
            waiting = busy.post(*[body(x, wanted=["y"], datatype="INT64") for x in (3, 99, 5)])
        good, bad, other = (answer_of(connection) for connection in waiting)
        assert (outputs(good)["y"], outputs(other)["y"]) == ([3.0], [5.0])
        assert bad[0] == 500
        assert "ONNX Runtime failed" in bad[1]["error"]

    def test_one_waits_for_others_where_it_is_told_to(self, serving: Serving, tmp_path: Path) -> None:
        model = batched(noisy_onnx(tmp_path / "m.onnx", size=256, rounds=4))
        serving.apply(model, policies=[policy(8, max_delay_us=1_000_000, preferred=(3,))])
        answers = [outputs(answer_of(each)) for each in [serving.post(body(float(n))) for n in range(3)]]
        noise = [answer["y"][0] - number for number, answer in enumerate(answers)]
        assert noise == pytest.approx([noise[0]] * 3, abs=1e-5)


class TestPriorities:
    def test_the_first_goes_before_those_that_came_earlier(self, serving: Serving, tmp_path: Path) -> None:
        model = version_plan(noisy_onnx(tmp_path / "m.onnx", size=512, rounds=4))
        with Busy(serving, tmp_path, model) as busy:
            waiting = busy.post(*[body(float(n)) for n in range(4 * CPUS)], body(9.0, priority=1))
            order: list[socket.socket] = []
            while len(order) < len(waiting):
                readable, _, _ = select.select([each for each in waiting if each not in order], [], [], 20)
                order += readable
        # It starts first; those that start beside it may end before it.
        assert order.index(waiting[-1]) <= CPUS
        assert all(outputs(answer_of(connection)) for connection in waiting)

    @pytest.mark.parametrize("priority", [3, -1, "high", True])
    def test_there_are_two(self, serving: Serving, tmp_path: Path, priority: Any) -> None:
        serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
        with serving.client() as client, pytest.raises(RequestError, match="priority must be"):
            client.infer("m", np.ones((1, 1), np.float32), parameters={"priority": priority})


class TestDeadlines:
    def test_one_that_waits_is_given_up_and_never_runs(self, serving: Serving, tmp_path: Path) -> None:
        model = version_plan(queued_onnx(tmp_path / "m.onnx"))
        with Busy(serving, tmp_path, model) as busy:
            (waiting,) = busy.post(body(1.0, timeout=250_000))
            status, answer = answer_of(waiting)
            assert status == 504
            assert "within the request's timeout of 250 ms" in answer["error"]
            busy.wait_for(f'{BUSY}{{model="m",version="1"}}', 0)
        samples = serving.metrics()
        assert samples['edge_agent_request_errors_total{model="m",version="1",kind="deadline"}'] == 1
        assert serving.page.snapshot().slots[1].run_ns == 0

    def test_one_that_runs_is_answered_in_time_and_remembered(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx", size=1024, rounds=6)))
        status, _ = answer_of(serving.post(body(1.0, timeout=20_000, cache=True)))
        assert status == 504
        status, answer = answer_of(serving.post(body(1.0, cache=True)))
        assert (status, answer["parameters"]["cache"]) == (200, "hit")

    def test_who_waits_for_the_same_run_has_its_own_deadline(self, serving: Serving, tmp_path: Path) -> None:
        model = version_plan(queued_onnx(tmp_path / "m.onnx"))
        with Busy(serving, tmp_path, model) as busy:
            hasty, patient = busy.post(body(1.0, timeout=250_000, cache=True), body(1.0, cache=True))
            assert answer_of(hasty)[0] == 504
        assert outputs(answer_of(patient))["z"] == [-1.0]

    def test_the_last_of_those_who_wait_for_a_run_takes_it_out_of_the_queue(self, tmp_path: Path) -> None:
        with Serving(tmp_path, http=HttpSettings(queue_limit=2)) as serving:
            model = version_plan(queued_onnx(tmp_path / "m.onnx"))
            with Busy(serving, tmp_path, model) as busy:
                waiting = busy.post(
                    body(1.0, timeout=150_000, cache=True), body(1.0, timeout=300_000, cache=True)
                )
                assert [answer_of(each)[0] for each in waiting] == [504, 504]
                busy.wait_for(f'{BUSY}{{model="m",version="1"}}', 0)
                assert serving.metrics()[f'{BUSY}{{model="busy",version="1"}}'] == CPUS
            assert serving.page.snapshot().slots[1].run_ns == 0

    def test_there_is_time_enough_as_a_rule(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
        for timeout in (0, 30_000_000):
            assert outputs(answer_of(serving.post(body(1.0, timeout=timeout))))["z"] == [-1.0]

    @pytest.mark.parametrize("timeout", [-1, 1.5, "soon", True, 2**70])
    def test_it_is_a_number_of_microseconds(self, serving: Serving, tmp_path: Path, timeout: Any) -> None:
        serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
        status, answer = answer_of(serving.post(body(1.0, timeout=timeout)))
        assert status == 400
        assert "timeout must be a whole number" in answer["error"]


class TestSlices:
    def test_a_large_request_is_run_slice_by_slice(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(batched(noisy_onnx(tmp_path / "m.onnx"), 4))
        given = np.arange(10, dtype=np.float32).reshape(10, 1)
        with serving.client() as client:
            result = client.infer("m", given).outputs
        assert np.array_equal(result["z"], -given)
        noise = np.round((result["y"] - given).ravel(), 4).tolist()
        assert [len(set(noise[first : first + 4])) for first in (0, 4, 8)] == [1, 1, 1]
        assert len(set(noise)) == 3

    def test_it_is_one_request_that_is_remembered_as_a_whole(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(batched(noisy_onnx(tmp_path / "m.onnx"), 4))
        given = np.arange(10, dtype=np.float32).reshape(10, 1)
        with serving.client() as client:
            first, again = (client.infer("m", given) for _ in range(2))
        assert again.parameters["cache"] == "hit"
        assert np.array_equal(first.outputs["y"], again.outputs["y"])
        samples = serving.metrics()
        assert samples['edge_agent_requests_total{model="m",version="1"}'] == 2
        assert samples[f'{BUSY}{{model="m",version="1"}}'] == 0

    def test_it_is_given_up_between_slices(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(batched(noisy_onnx(tmp_path / "m.onnx", size=512, rounds=6), 1))
        status, _ = answer_of(serving.post(body(*range(500), timeout=100_000)))
        assert status == 504
        wait_until(lambda: serving.metrics()[f'{BUSY}{{model="m",version="1"}}'] == 0, "the slices to end", 5.0)

    def test_one_that_waits_for_its_first_slice_is_given_up(self, serving: Serving, tmp_path: Path) -> None:
        model = batched(queued_onnx(tmp_path / "m.onnx"), 1)
        with Busy(serving, tmp_path, model) as busy:
            (waiting,) = busy.post(body(1.0, 2.0, timeout=250_000))
            assert answer_of(waiting)[0] == 504
            busy.wait_for(f'{BUSY}{{model="m",version="1"}}', 0)
            assert serving.metrics()[f'{BUSY}{{model="busy",version="1"}}'] == CPUS
        assert serving.page.snapshot().slots[1].run_ns == 0


class TestFairness:
    def test_a_quick_model_and_health_checks_go_on_beside_a_slow_one(
        self, serving: Serving, tmp_path: Path
    ) -> None:
        """They do not wait for a slow run: a health check or a quick run takes a fraction of one."""
        quick = version_plan(identity_onnx(tmp_path / "quick.onnx", "FLOAT"), "quick")
        with Busy(serving, tmp_path, quick):
            took_s: list[float] = []
            are_busy = True
            while are_busy:
                started_s = time.monotonic()
                tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [float(len(took_s))]}
                connection = serving.post({"inputs": [tensor]}, path="/v2/models/quick/infer")
                assert answer_of(connection)[0] == 200
                took_s.append(time.monotonic() - started_s)
                are_busy = serving.metrics()[f'{BUSY}{{model="busy",version="1"}}'] == CPUS
        slow_s = serving.page.snapshot().slots[0].run_ns / 1e9 / CPUS
        assert len(took_s) > 20
        # All but a few, as the machine may have halted this process itself.
        assert sorted(took_s)[len(took_s) * 95 // 100] < slow_s / 3, (sorted(took_s)[-10:], slow_s)


class TestLargeJson:
    """What is read on another thread, over the network."""

    def test_it_is_answered_as_small_json_is(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
        rows = [float(number) for number in range(50_000)]
        for wanted in (rows, rows[:3]):
            assert outputs(answer_of(serving.post(body(*wanted, wanted=["z"]))))["z"] == [
                -row for row in wanted
            ]

    def test_what_is_wrong_with_it_is_told_and_counted(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
        for content, message in (
            (body(*[1e9] * 50_000, datatype="INT8"), "must be FP32, not 'INT8'"),
            (body(*[1e9] * 50_000, "x"), "cannot be FP32"),
            ({"inputs": "x" * 300_000}, "not an inference request"),
        ):
            status, answer = answer_of(serving.post(content))
            assert status == 400
            assert message in answer["error"]
        samples = serving.metrics()
        assert samples['edge_agent_request_errors_total{model="m",version="1",kind="request"}'] == 3
        status, _ = answer_of(serving.post(body(*[1e9] * 50_000), path="/v2/models/none/infer"))
        assert status == 404


def test_who_has_gone_makes_room_for_others(tmp_path: Path) -> None:
    with Serving(tmp_path, http=HttpSettings(queue_limit=2)) as serving:
        model = version_plan(queued_onnx(tmp_path / "m.onnx"))
        with Busy(serving, tmp_path, model) as busy:
            waiting = busy.post(body(1.0), body(2.0))
            assert answer_of(serving.post(body(3.0)))[0] == 503
            for connection in waiting:
                connection.close()
            # Nobody tells when the server has noticed; once it has, there is room.
            late = wait_until(lambda: _accepted(serving, busy), "room in the queue", 5.0)
        assert outputs(answer_of(late))["z"] == [-3.0]


def test_those_who_have_gone_do_not_hold_up_who_comes_after_them(serving: Serving, tmp_path: Path) -> None:
    model = version_plan(queued_onnx(tmp_path / "m.onnx"))
    with Busy(serving, tmp_path, model) as busy:
        waiting = busy.post(*[body(float(number)) for number in range(8)])
        for connection in waiting[:-1]:
            connection.close()
    assert outputs(answer_of(waiting[-1]))["z"] == [-7.0]
    wait_until(lambda: serving.metrics()[f'{BUSY}{{model="m",version="1"}}'] == 0, "nothing to be left", 5.0)


def _accepted(serving: Serving, busy: Busy) -> socket.socket | None:
    connection = serving.post(body(3.0))
    connection.settimeout(0.05)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        connection.settimeout(20.0)
        return connection
    connection.close()
    return None
