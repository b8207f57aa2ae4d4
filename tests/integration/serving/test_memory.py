"""A real serving process swaps versions beside and in place, and keeps within its budget of memory."""

import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.client import Client
from edge_agent.documents.errors import EdgeAgentError, NotFoundError, UnavailableError
from edge_agent.documents.ipc import Applied, Apply, Refused
from edge_agent.documents.plan import Plan, StatePair, VersionPlan, with_id
from edge_agent.documents.settings import CacheSettings, MemorySettings
from support.agent import wait_until
from support.serving import (
    ServingProcess,
    doubling_tflite,
    magika,
    slow_onnx,
    summing_onnx,
    version_plan,
    wake_word,
    weighty_onnx,
)

ONE, TWO = 5_500_000, 9_000_000
"""Budgets that one, and two, of the models fit into: each takes 3.4 MB, the first 1.5 more."""
X = np.array([[1, 2]], np.float32)

Serve = Callable[..., ServingProcess]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start serving processes, each with a budget."""
    started: list[ServingProcess] = []

    def start(budget_bytes: int = 0, **others: Any) -> ServingProcess:
        memory = MemorySettings(budget_bytes=budget_bytes, **others.pop("memory", {}))
        folder = tmp_path / f"serving{len(started)}"
        started.append(ServingProcess(folder, memory=memory, **others))
        return started[-1]

    yield start
    for process in started:
        process.__exit__()


def weighty(folder: Path, factor: int, model: str = "m") -> VersionPlan:
    """Return version `factor` of a model that multiplies by that, and is said to need 4 MB."""
    plan = version_plan(weighty_onnx(folder / f"{model}{factor}.onnx", factor), model, str(factor))
    return dataclasses.replace(plan, memory_bytes=4_000_000)


class Clients:
    """Threads that ask models over and over, and see to it that each answer is its version's."""

    def __init__(self, path: Path, models: Sequence[str]) -> None:
        self.answers: dict[tuple[str, str], int] = {}
        self.faults: list[str] = []
        self._path = path
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(model, seed), name=f"client {seed}")
            for seed, model in enumerate(models)
        ]

    def _ask(self, model: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        with Client(self._path) as client:
            while not self._end.is_set():
                given = random.integers(-100, 100, (1, 2)).astype(np.float32)
                try:
                    result = client.infer(model, given)
                except EdgeAgentError as error:
                    self.faults.append(str(error))
                    return
                version = result.model_version
                if not np.array_equal(result.outputs["y"], given * int(version)):
                    self.faults.append(f"{given} gave {result.outputs['y']} by version {version}")
                self.answers[model, version] = self.answers.get((model, version), 0) + 1

    def wait_for(self, model: str, version: int) -> None:
        """Wait for ten more answers by a version."""
        goal = self.answers.get((model, str(version)), 0) + 10
        wait_until(
            lambda: self.answers.get((model, str(version)), 0) >= goal or self.faults, f"{model} {version}"
        )
        assert self.faults == []


@contextmanager
def clients(serving: ServingProcess, *models: str) -> Iterator[Clients]:
    asking = Clients(serving.path, models)
    for thread in asking._threads:
        thread.start()
    try:
        yield asking
    finally:
        asking._end.set()
        for thread in asking._threads:
            thread.join(20)
    assert asking.faults == []


def metrics(serving: ServingProcess) -> dict[str, float]:
    connection = HTTPConnection(*serving.metrics, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {name: float(value) for name, value in re.findall(r"^(edge_agent_\S+) (\S+)$", text, re.M)}


def index(serving: ServingProcess) -> dict[str, tuple[str, str]]:
    connection = HTTPConnection(*serving.tcp, timeout=10)
    connection.request("POST", "/v2/repository/index")
    entries = json.loads(connection.getresponse().read())
    connection.close()
    return {entry["name"]: (entry["state"], entry["reason"]) for entry in entries}


def send(serving: ServingProcess, *versions: VersionPlan) -> Plan:
    """Send a plan without waiting for what becomes of it."""
    for version in versions:
        serving._slots.setdefault(version.key, len(serving._slots))
    plan = with_id(Plan(versions=versions))
    serving.send(Apply(plan=plan, slots={version.key: serving.slot(version) for version in versions}))
    return plan


class TestSwap:
    @pytest.mark.parametrize(("budget", "how"), [(0, "beside"), (ONE, "in place")])
    def test_under_load_no_request_fails_or_sees_a_mix(
        self, serve: Serve, tmp_path: Path, budget: int, how: str
    ) -> None:
        serving = serve(budget)
        versions = [weighty(tmp_path, factor) for factor in (1, 2, 3)]
        assert isinstance(serving.apply(versions[0]), Applied)
        with clients(serving, "m", "m", "m", "m") as asking:
            asking.wait_for("m", 1)
            for turn in (1, 2, 0, 1):
                assert isinstance(serving.apply(versions[turn]), Applied)
                asking.wait_for("m", turn + 1)
        assert serving.log.count(f"Loading m 2 {how}") == 2
        loaded = metrics(serving)
        assert loaded['edge_agent_model_loads_total{model="m",version="2"}'] == 2
        assert loaded['edge_agent_model_resident_bytes{model="m",version="1"}'] == 0
        assert loaded['edge_agent_model_resident_bytes{model="m",version="2"}'] > 3_000_000
        assert loaded["edge_agent_memory_budget_bytes"] == budget

    def test_a_new_version_that_does_not_load_leaves_the_old_one(self, serve: Serve, tmp_path: Path) -> None:
        serving = serve(ONE)
        old = weighty(tmp_path, 1)
        (tmp_path / "bad.onnx").write_bytes(b"\x00" * 100)
        bad = dataclasses.replace(version_plan(tmp_path / "bad.onnx", "m", "2"), memory_bytes=4_000_000)
        assert isinstance(serving.apply(old), Applied)
        with clients(serving, "m", "m", "m") as asking:
            asking.wait_for("m", 1)
            refused = serving.apply(bad)
            assert isinstance(refused, Refused)
            assert refused.key == bad.key
            asking.wait_for("m", 1)
        assert "Loading m 2 in place" in serving.log
        assert set(asking.answers) == {("m", "1")}
        assert metrics(serving)['edge_agent_model_loads_total{model="m",version="1"}'] == 2

    def test_what_runs_is_finished_and_what_waits_is_bounded(self, serve: Serve, tmp_path: Path) -> None:
        serving = serve(ONE, memory={"wait_limit_s": 0.2})
        slow = version_plan(slow_onnx(tmp_path / "slow.onnx", rounds=400), "m", "1")
        slow, new = dataclasses.replace(slow, memory_bytes=4_000_000), weighty(tmp_path, 2)
        serving.apply(slow)
        results: list[Any] = []
        large = np.eye(512, dtype=np.float32)

        def run() -> None:
            with Client(serving.path) as client:
                results.append(client.infer("m", large).model_version)

        running = threading.Thread(target=run)
        running.start()
        wait_until(lambda: serving.page.snapshot().marks, "the run")
        plan = send(serving, new)
        with Client(serving.path) as client:
            wait_until(lambda: "Loading m 2 in place" in serving.log, "the swap")
            for parameters, limit in (({"timeout": 20_000}, "0.02 s"), ({}, "0.2 s")):
                with pytest.raises(UnavailableError, match=limit) as refused:
                    client.infer("m", {"x": X}, parameters=parameters)
                assert refused.value.retry_after_s == 5
            assert results == []
            assert serving.receive() == Applied(plan_id=plan.id, load_s=pytest.approx({new.key: 1}, abs=1))
            assert client.infer("m", X).model_version == "2"
        running.join(20)
        assert results == ["1"]

    def test_a_crash_in_the_midst_of_it_leaves_the_old_plan_to_serve(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        serving = serve(ONE)
        old, new = weighty(tmp_path, 1), weighty(tmp_path, 2)
        serving.apply(old)
        send(serving, new)
        wait_until(lambda: "Loading m 2 in place" in serving.log, "the swap")
        serving.process.kill()
        serving.process.wait()
        serving.page.clear_marks()
        serving.start()
        assert isinstance(serving.apply(old), Applied)
        with Client(serving.path) as client:
            assert client.infer("m", X).model_version == "1"

    def test_a_sequence_goes_on_on_the_version_that_was_replaced(self, serve: Serve, tmp_path: Path) -> None:
        serving = serve(ONE)
        plans = []
        for version, factor in (("1", 1.0), ("2", 100.0)):
            plan = version_plan(summing_onnx(tmp_path / f"{version}.onnx", factor), "m", version)
            state = (StatePair("before", "after"),)
            plans.append(dataclasses.replace(plan, state=state, memory_bytes=ONE))
        serving.apply(plans[0])
        with Client(serving.path) as client:

            def step(**order: bool) -> tuple[str, float]:
                result = client.infer("m", {"x": X}, parameters={"sequence_id": "s", **order})
                return result.model_version, float(result.outputs["total"][0, 0])

            assert step(sequence_start=True) == ("1", 1)
            serving.apply(plans[1])
            assert "Loading m 2 in place" in serving.log
            assert step() == ("1", 2)
            assert client.infer("m", {"x": X}, parameters={"sequence_id": "t", "sequence_start": True}).outputs[
                "total"
            ].tolist() == [[100, 200]]
            assert step(sequence_end=True) == ("1", 3)
        name = 'edge_agent_model_resident_bytes{model="m",version="1"}'
        wait_until(lambda: metrics(serving)[name] == 0, "the old version to be unloaded")


class TestBudget:
    def test_three_models_where_two_fit_take_turns(self, serve: Serve, tmp_path: Path) -> None:
        serving = serve(TWO)
        models = {"a": 1, "b": 2, "c": 3}
        plans = [weighty(tmp_path, factor, model) for model, factor in models.items()]
        assert isinstance(serving.apply(*plans), Applied)
        states = index(serving)
        assert states["a"] == ("UNAVAILABLE", "unloaded to save memory; loads on demand")
        assert states["b"] == states["c"] == ("READY", "")
        with Client(serving.path) as client:
            assert client.ready("a")
            assert [spec.name for spec in client.metadata("a").inputs] == ["x"]
        with clients(serving, "a", "a", "b", "b", "c", "c") as asking:
            for model, factor in [*models.items(), *models.items()]:
                asking.wait_for(model, factor)
        found = metrics(serving)
        loads = sum(count for name, count in found.items() if name.startswith("edge_agent_model_loads_total"))
        assert sum(asking.answers.values()) > 10 * loads
        resident = [
            found[f'edge_agent_model_resident_bytes{{model="{m}",version="{v}"}}'] for m, v in models.items()
        ]
        assert 0 < sum(resident) <= TWO
        assert sum(1 for size in resident if size) == 2

    def test_the_least_recently_used_makes_room(self, serve: Serve, tmp_path: Path) -> None:
        serving = serve(TWO)
        plans = [weighty(tmp_path, factor, model) for model, factor in {"a": 1, "b": 2, "c": 3}.items()]
        serving.apply(*plans)
        with Client(serving.path) as client:
            for asked, away in (("a", "b"), ("c", "b"), ("b", "a"), ("a", "c")):
                # For a while, as one that has just been loaded may stay for a moment in any case.
                until_s = time.monotonic() + 0.3
                while time.monotonic() < until_s:
                    answer = client.infer(asked, X)
                    assert (answer.outputs["y"] == X * int(answer.model_version)).all()
                states = {model: state for model, (state, _) in index(serving).items()}
                assert states == dict.fromkeys("abc", "READY") | {away: "UNAVAILABLE"}

    def test_an_answer_is_remembered_though_its_version_was_unloaded(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        serving = serve(ONE, cache=CacheSettings())
        serving.apply(weighty(tmp_path, 1, "a"), weighty(tmp_path, 2, "b"))
        with Client(serving.path) as client:
            assert client.infer("a", X).parameters["cache"] == "miss"
            assert client.infer("b", X).parameters["cache"] == "miss"
            assert index(serving)["a"][0] == "UNAVAILABLE"
            assert client.infer("a", X).parameters["cache"] == "hit"
        assert index(serving)["a"][0] == "UNAVAILABLE"

    def test_what_is_too_large_even_alone_is_refused_with_both_numbers(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        serving = serve(3_300_000)
        served = version_plan(doubling_tflite(tmp_path / "small.tflite"), "small")
        assert isinstance(serving.apply(served), Applied)
        stated = weighty(tmp_path, 1)
        measured = version_plan(weighty_onnx(tmp_path / "n.onnx", 2), "n")
        for version, needs in ((stated, "needs 4000000 bytes"), (measured, "needs ")):
            refused = serving.apply(served, version)
            assert isinstance(refused, Refused)
            assert refused.key == version.key
            assert needs in refused.reason
            assert "memory.budget_bytes is 3300000" in refused.reason
        with Client(serving.path) as client:
            assert client.infer("small", np.ones((1, 3), np.float32)).outputs["y"].tolist() == [[2, 2, 2]]
            with pytest.raises(NotFoundError):
                client.infer("m", X)

    def test_a_version_whose_file_is_gone_says_so_and_the_others_go_on(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        serving = serve(ONE)
        serving.apply(weighty(tmp_path, 1, "a"), weighty(tmp_path, 2, "b"))
        (tmp_path / "a1.onnx").unlink()
        with Client(serving.path) as client:
            for _ in range(2):
                with pytest.raises(EdgeAgentError, match="cannot load"):
                    client.infer("a", X)
            assert client.infer("b", X).outputs["y"].tolist() == [[2, 4]]


def own_kilobytes(serving: ServingProcess) -> int:
    """Return the memory that the process alone has; that of libraries changes with who else maps them."""
    rollup = Path(f"/proc/{serving.process.pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Anon:"))


@pytest.mark.slow
def test_two_hundred_loads_leave_no_memory_behind(serve: Serve, tmp_path: Path) -> None:
    serving = serve()
    plans = [
        [weighty(tmp_path, 1, "onnx"), version_plan(wake_word(), "tflite", "1")],
        [weighty(tmp_path, 2, "onnx"), version_plan(doubling_tflite(tmp_path / "t.tflite"), "tflite", "2")],
    ]
    after: dict[int, int] = {}
    for count in range(1, 201):
        assert isinstance(serving.apply(*plans[count % 2]), Applied)
        if count in (20, 200):
            # The one before is unloaded behind the answer, which takes a moment.
            after[count] = min(own_kilobytes(serving) for _ in range(50))
    assert after[200] < after[20] * 1.04


@pytest.mark.slow
def test_what_runs_leave_goes_back(serve: Serve) -> None:
    serving = serve()
    serving.apply(version_plan(magika(), "magika"))
    with Client(serving.path) as client:
        for _ in range(20):
            client.infer("magika", np.zeros((1, 2048), np.int32))
    busy = own_kilobytes(serving)
    wait_until(lambda: own_kilobytes(serving) < busy - 3000, "the memory to go back", 20)
