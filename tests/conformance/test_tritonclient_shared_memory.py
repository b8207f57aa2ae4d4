"""Tensors in shared memory, by Triton's own client and its utilities, unmodified."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import CacheSettings, SharedMemorySettings
from support.serving import ServingProcess, identity_onnx, version_plan

SHAPE = (64, 2)
SIZE = 64 * 2 * 4


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    folder = tmp_path_factory.mktemp("shm")
    settings = {"shared_memory": SharedMemorySettings(enabled=True), "cache": CacheSettings()}
    with ServingProcess(folder / "s", None, **settings) as process:
        models = [
            version_plan(identity_onnx(folder / "m.onnx"), "m"),
            version_plan(identity_onnx(folder / "t.onnx", "BYTES"), "text"),
        ]
        assert isinstance(process.apply(*models), Applied)
        yield process


@pytest.fixture
def client(serving: ServingProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient("{}:{}".format(*serving.tcp)) as client:
        yield client
        client.unregister_system_shared_memory()


@pytest.fixture
def region(client: triton.InferenceServerClient) -> Iterator[object]:
    """A region `both` with room for an input and an output."""
    key = f"/edge-agent-test-{os.getpid()}"
    handle = shm.create_shared_memory_region("both", key, 2 * SIZE)
    client.register_system_shared_memory("both", key, 2 * SIZE)
    yield handle
    shm.destroy_shared_memory_region(handle)


def place(tensor: object, offset: int, size: int = SIZE) -> None:
    tensor.set_shared_memory("both", size, offset)  # type: ignore[attr-defined]


def test_inputs_and_outputs_are_in_regions(client: triton.InferenceServerClient, region: object) -> None:
    assert "system_shared_memory" in client.get_server_metadata()["extensions"]
    given = triton.InferInput("x", list(SHAPE), "FP32")
    wanted = triton.InferRequestedOutput("y")
    place(given, 0)
    place(wanted, SIZE)
    for number in range(3):
        array = np.full(SHAPE, number, np.float32)
        shm.set_shared_memory_region(region, [array])
        result = client.infer("m", [given], outputs=[wanted])
        assert set(result.get_output("y")) == {"name", "datatype", "shape"}
        assert result.get_response()["parameters"]["cache"] == "bypass"
        assert np.array_equal(shm.get_contents_as_numpy(region, np.float32, SHAPE, SIZE), array)


def test_an_answer_from_the_cache_goes_to_the_region_each_time(
    client: triton.InferenceServerClient, region: object
) -> None:
    given = triton.InferInput("x", list(SHAPE), "FP32")
    given.set_data_from_numpy(np.full(SHAPE, 7, np.float32))
    wanted = triton.InferRequestedOutput("y")
    place(wanted, SIZE)
    for _ in range(5):
        shm.set_shared_memory_region(region, [np.zeros(2 * SIZE, np.uint8)])
        client.infer("m", [given], outputs=[wanted])
        assert (shm.get_contents_as_numpy(region, np.float32, SHAPE, SIZE) == 7).all()


def test_status_lists_and_unregister_forgets(client: triton.InferenceServerClient, region: object) -> None:
    (status,) = client.get_system_shared_memory_status()
    assert (status["name"], status["offset"], status["byte_size"]) == ("both", 0, 2 * SIZE)
    client.unregister_system_shared_memory("both")
    assert client.get_system_shared_memory_status() == []
    given = triton.InferInput("x", list(SHAPE), "FP32")
    place(given, 0)
    with pytest.raises(InferenceServerException, match="no shared memory region 'both'"):
        client.infer("m", [given])


@pytest.mark.parametrize(
    ("offset", "size", "message"), [(0, SIZE - 4, "needs 512"), (2 * SIZE - 8, SIZE, "would end at")]
)
def test_a_place_that_does_not_fit_is_refused(
    client: triton.InferenceServerClient, region: object, offset: int, size: int, message: str
) -> None:
    given = triton.InferInput("x", list(SHAPE), "FP32")
    place(given, offset, size)
    with pytest.raises(InferenceServerException, match=message):
        client.infer("m", [given])


def test_an_output_too_large_for_its_place_is_refused(
    client: triton.InferenceServerClient, region: object
) -> None:
    given = triton.InferInput("x", list(SHAPE), "FP32")
    given.set_data_from_numpy(np.ones(SHAPE, np.float32))
    wanted = triton.InferRequestedOutput("y")
    place(wanted, SIZE, 100)
    with pytest.raises(InferenceServerException, match="takes 512 bytes, its place in region 'both' has 100"):
        client.infer("m", [given], outputs=[wanted])


def test_memory_that_shrinks_harms_nobody(client: triton.InferenceServerClient, region: object) -> None:
    given = triton.InferInput("x", list(SHAPE), "FP32")
    place(given, 0)
    os.truncate(Path("/dev/shm") / f"edge-agent-test-{os.getpid()}", 10)
    with pytest.raises(InferenceServerException, match="has become smaller"):
        client.infer("m", [given])
    assert client.is_server_live()


def test_text_in_a_region(client: triton.InferenceServerClient, region: object) -> None:
    array = np.array([["a", "ü"]], np.object_)
    shm.set_shared_memory_region(region, [serialize_byte_tensor(array)])
    given = triton.InferInput("x", [1, 2], "BYTES")
    place(given, 0, 4 + 1 + 4 + 2)
    result = client.infer("text", [given])
    assert result.as_numpy("y").tolist() == [[b"a", "ü".encode()]]


def test_cuda_is_refused_in_one_sentence(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="CUDA shared memory is not served"):
        client.get_cuda_shared_memory_status()
