"""The Python clients against a real serving process: shared memory, sequences and tasks."""

import asyncio
import dataclasses
import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edge_agent.client import AsyncClient, Client
from edge_agent.documents.errors import DeadlineExceededError, NotFoundError, RequestError, TooLateError
from edge_agent.documents.plan import StatePair
from edge_agent.documents.settings import SharedMemorySettings, TaskSettings
from support.serving import ServingProcess, identity_onnx, save_onnx, slow_onnx, version_plan

LARGE = np.random.default_rng(0).standard_normal((100_000, 2)).astype(np.float32)
SMALL = LARGE[:2]


def apply(serving: ServingProcess, folder: Path) -> None:
    tensor = ("FP32", ["n", 2])
    nodes = [
        helper.make_node("Add", ["x", "before"], ["after"]),
        helper.make_node("Identity", ["after"], ["y"]),
    ]
    streaming = save_onnx(
        folder / "sum.onnx", nodes, {"x": tensor, "before": tensor}, {"y": tensor, "after": tensor}
    )
    serving.apply(
        version_plan(identity_onnx(folder / "m.onnx")),
        version_plan(slow_onnx(folder / "slow.onnx", 1024, 12), "slow"),
        dataclasses.replace(version_plan(streaming, "sum"), state=(StatePair("before", "after"),)),
    )


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[ServingProcess]:
    settings = {"shared_memory": SharedMemorySettings(enabled=True), "tasks": TaskSettings(max_bytes=2**26)}
    with ServingProcess(tmp_path / "s", None, **settings) as process:
        apply(process, tmp_path)
        yield process


def regions() -> list[str]:
    return [path.name for path in Path("/dev/shm").iterdir() if path.name.startswith("edge-agent-")]


class TestSharedMemory:
    def test_large_arrays_go_by_it_and_nothing_is_left(self, serving: ServingProcess) -> None:
        before = regions()
        with Client(serving.path) as client:
            for number in range(3):
                assert np.array_equal(client.infer("m", LARGE * number).outputs["y"], LARGE * number)
            assert len(regions()) == len(before) + 1
            assert client.infer("m", LARGE).parameters["cache"] == "bypass"
            assert np.array_equal(client.infer("m", LARGE[::2]).outputs["y"], LARGE[::2])
            assert np.array_equal(client.infer("m", SMALL).outputs["y"], SMALL)
            larger = np.concatenate([LARGE] * 3)
            assert np.array_equal(client.infer("m", larger).outputs["y"], larger)
        assert regions() == before

    def test_a_restarted_server_is_told_again(self, serving: ServingProcess, tmp_path: Path) -> None:
        with Client(serving.path) as client:
            client.infer("m", LARGE)
            serving.process.kill()
            serving.process.wait()
            serving.start()
            apply(serving, tmp_path)
            count = len(regions())
            assert np.array_equal(client.infer("m", LARGE).outputs["y"], LARGE)
            assert len(regions()) == count

    def test_a_server_without_it_gets_them_in_the_body(self, tmp_path: Path) -> None:
        before = regions()
        with ServingProcess(tmp_path / "s") as serving:
            apply(serving, tmp_path)
            with Client(serving.path) as client:
                for _ in range(2):
                    assert np.array_equal(client.infer("m", LARGE).outputs["y"], LARGE)
            with Client("http://{}:{}".format(*serving.tcp)) as client:
                assert np.array_equal(client.infer("m", LARGE).outputs["y"], LARGE)
        assert regions() == before

    def test_asyncio_has_it_too(self, serving: ServingProcess) -> None:
        before = regions()

        async def scenario() -> None:
            async with AsyncClient(serving.path) as client:
                results = await asyncio.gather(*(client.infer("m", LARGE * number) for number in range(4)))
                for number, result in enumerate(results):
                    assert np.array_equal(result.outputs["y"], LARGE * number)

        asyncio.run(scenario())
        assert regions() == before


def test_calls_leave_no_garbage(serving: ServingProcess) -> None:
    with Client(serving.path) as client:
        client.infer("m", SMALL)
        gc.collect()
        gc.disable()
        try:
            before = len(gc.get_objects())
            for _ in range(50):
                client.infer("m", SMALL)
            assert len(gc.get_objects()) < before + 25
        finally:
            gc.enable()


class TestSequences:
    def test_the_state_is_kept_until_the_end(self, serving: ServingProcess) -> None:
        ones = np.ones((1, 2), np.float32)
        with Client(serving.path) as client:
            one, other = client.sequence("sum"), client.sequence("sum")
            assert one.id != other.id
            for number in range(1, 4):
                found = one.infer({"x": ones}, end=number == 3).outputs
                assert (list(found), found["y"].tolist()) == (["y"], [[number, number]])
                assert other.infer({"x": ones * 2}).outputs["y"].tolist() == [[2 * number, 2 * number]]
            assert one.infer({"x": ones}).outputs["y"].tolist() == [[1, 1]]

    def test_asyncio_has_them_too(self, serving: ServingProcess) -> None:
        async def scenario() -> list[float]:
            async with AsyncClient(serving.path) as client:
                sequence = client.sequence("sum")
                ones = {"x": np.ones((1, 2), np.float32)}
                return [float((await sequence.infer(ones)).outputs["y"][0, 0]) for _ in range(3)]

        assert asyncio.run(scenario()) == [1, 2, 3]


class TestTasks:
    def test_the_answer_is_fetched_later(self, serving: ServingProcess) -> None:
        big = np.full((1024, 1024), 1e-3, np.float32)
        with Client(serving.path) as client:
            task = client.submit("slow", big)
            assert task.status() in ("pending", "done")
            assert task.result().outputs["y"].shape == (1024, 1024)
            assert task.status() == "done"
            task.cancel()
            with pytest.raises(NotFoundError, match="no task"):
                task.status()
            with pytest.raises(RequestError, match="must have shape"):
                client.submit("slow", SMALL)

    def test_it_may_be_cancelled_or_not_be_waited_for(self, serving: ServingProcess) -> None:
        big = np.full((1024, 1024), 1e-3, np.float32)
        with Client(serving.path) as client:
            tasks = [client.submit("slow", big * number) for number in range(6)]
            with pytest.raises(DeadlineExceededError):
                tasks[-1].result(timeout_s=0.0)
            tasks[-1].cancel()
            with pytest.raises(TooLateError, match="was cancelled"):
                tasks[-1].result()
            assert tasks[-2].result().outputs["y"].shape == (1024, 1024)

    def test_asyncio_has_them_too(self, serving: ServingProcess) -> None:
        async def scenario() -> str:
            async with AsyncClient(serving.path) as client:
                task = await client.submit("m", SMALL)
                assert np.array_equal((await task.result()).outputs["y"], SMALL)
                return await task.status()

        assert asyncio.run(scenario()) == "done"


def test_the_callers_timeout_is_the_servers_too(serving: ServingProcess) -> None:
    big = np.full((1024, 1024), 1e-3, np.float32)
    with Client(serving.path) as client:
        with pytest.raises(DeadlineExceededError):
            client.infer("slow", big, timeout_s=0.005)
        assert client.infer("m", SMALL, timeout_s=20).outputs["y"].shape == (2, 2)
