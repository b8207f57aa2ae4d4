"""The HTTP server of serving, asked by Triton's own client, unmodified."""

import asyncio
import gzip
import json
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from onnx import helper
from tritonclient.utils import InferenceServerException

from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import HttpSettings
from edge_agent.documents.tensors import NUMPY_NAME
from support.serving import ONNX_TYPES, ServingProcess, identity_onnx, save_onnx, slow_onnx, version_plan

X = np.array([[1, 2]], np.float32)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    """Identities of every datatype, each named after its own, `m` of FP32, `two` outputs, and a slow model."""
    folder = tmp_path_factory.mktemp("http")
    two = save_onnx(
        folder / "two.onnx",
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])],
        {"x": ("FP32", ["n", 4])},
        {"y": ("FP32", ["n", 4]), "z": ("FP32", ["n", 4])},
    )
    with ServingProcess(folder / "s", HttpSettings(max_body_bytes=2**21, server_name="triton")) as process:
        versions = [
            version_plan(identity_onnx(folder / f"{datatype}.onnx", datatype), datatype.lower())
            for datatype in ONNX_TYPES
        ]
        plain = identity_onnx(folder / "m.onnx")
        versions += [version_plan(plain, "m", "1"), version_plan(plain, "m", "2", 0.0)]
        versions += [version_plan(two, "two"), version_plan(slow_onnx(folder / "slow.onnx"), "slow")]
        assert isinstance(process.apply(*versions), Applied)
        yield process


@pytest.fixture
def url(serving: ServingProcess) -> str:
    return "{}:{}".format(*serving.tcp)


@pytest.fixture
def client(url: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(url, concurrency=4) as client:
        yield client


def given(array: Any, datatype: str = "FP32", name: str = "x", binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def wanted(name: str, **more: Any) -> triton.InferRequestedOutput:
    return triton.InferRequestedOutput(name, **more)


def refused(call: Any, *arguments: Any, **more: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **more)
    return caught.value.status(), caught.value.message()


def test_the_server_and_its_models_are_described(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", "2")
    assert not client.is_model_ready("m", "3")
    assert not client.is_model_ready("none")
    server = client.get_server_metadata()
    assert server["name"] == "triton"
    assert {"binary_tensor_data", "classification", "statistics", "model_repository"} <= set(
        server["extensions"]
    )
    described = client.get_model_metadata("m", "2")
    assert described["versions"] == ["1", "2"]
    assert described["platform"] == "onnxruntime_onnx"
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]


def test_a_models_configuration_is_in_tritons_terms(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("m", "2")
    assert (config["name"], config["backend"], config["max_batch_size"]) == ("m", "onnxruntime", 0)
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2]}]
    assert config["response_cache"] == {"enable": False}
    assert client.get_model_config("bytes")["input"][0]["data_type"] == "TYPE_STRING"


def test_statistics_count_what_was_done(client: triton.InferenceServerClient) -> None:
    def stats() -> Any:
        return client.get_inference_statistics("two")["model_stats"][0]

    before = stats()
    for _ in range(3):
        client.infer("two", [given(np.ones((2, 4), np.float32))])
    refused(client.infer, "two", [given(X)])
    after = stats()
    assert (after["name"], after["version"]) == ("two", "1")
    for name, count in (("success", 3), ("fail", 1), ("queue", 3), ("compute_input", 3), ("compute_output", 3)):
        was, now = before["inference_stats"][name], after["inference_stats"][name]
        assert now["count"] - was["count"] == count, name
        assert now["ns"] > was["ns"] or name == "queue"
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["batch_stats"][0]["compute_infer"]["count"] == after["execution_count"]
    assert after["last_inference"] > 1_600_000_000_000
    names = {entry["name"] for entry in client.get_inference_statistics()["model_stats"]}
    assert {"two", "m", "slow"} <= names


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", [name for name in ONNX_TYPES if name != "BF16"])
def test_every_datatype_comes_back_as_it_was(
    client: triton.InferenceServerClient, datatype: str, binary: bool
) -> None:
    if datatype == "BYTES":
        array = np.array([["", "ü"], ["x" * 1000, "4"]], np.object_)
    else:
        array = np.array([[0, 1], [100, 7]]).astype(NUMPY_NAME[datatype])
    if datatype == "FP16" and not binary:
        return
    output = wanted("y", binary_data=binary)
    result = client.infer(datatype.lower(), [given(array, datatype, binary=binary)], outputs=[output])
    found = result.as_numpy("y")
    if datatype == "BYTES":
        found = np.vectorize(lambda item: item.decode() if isinstance(item, bytes) else item)(found)
    assert np.array_equal(found, array)


def test_bfloat16_comes_back_as_it_was(client: triton.InferenceServerClient) -> None:
    array = np.array([[1.0, -2.5], [0.0, 3e38]], ml_dtypes.bfloat16)
    tensor = triton.InferInput("x", [2, 2], "BF16")
    tensor.set_data_from_numpy(array)
    result = client.infer("bf16", [tensor])
    assert result.get_output("y")["datatype"] == "BF16"
    assert np.array_equal(result.as_numpy("y"), array)


def test_an_answer_names_its_request_and_version(client: triton.InferenceServerClient) -> None:
    result = client.infer("m", [given(X)], request_id="seven", model_version="2")
    assert np.array_equal(result.as_numpy("y"), X)
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("m", "2", "seven")
    assert response["parameters"]["arm"] == "direct"


def test_only_the_wanted_outputs_are_sent(client: triton.InferenceServerClient) -> None:
    result = client.infer("two", [given(np.ones((1, 4), np.float32))], outputs=[wanted("z")])
    assert result.as_numpy("y") is None
    assert result.as_numpy("z").tolist() == [[-1.0] * 4]


def test_an_output_as_its_best_classes(client: triton.InferenceServerClient) -> None:
    array = np.array([[0.5, 3.0, -1.0, 2.0], [4.0, 1.0, 1.0, 0.0]], np.float32)
    result = client.infer("two", [given(array)], outputs=[wanted("y", class_count=2)])
    assert result.as_numpy("y").tolist() == [[b"3.000000:1", b"2.000000:3"], [b"4.000000:0", b"1.000000:1"]]
    more = client.infer("two", [given(array)], outputs=[wanted("y", class_count=9, binary_data=False)])
    assert np.shape(more.as_numpy("y")) == (2, 4)
    status, message = refused(
        client.infer,
        "bytes",
        [given(np.array([["a", "b"]], np.object_), "BYTES")],
        outputs=[wanted("y", class_count=1)],
    )
    assert (status, "has no numbers" in message) == ("400", True)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_are_compressed_both_ways(client: triton.InferenceServerClient, algorithm: str) -> None:
    array = np.random.default_rng(0).integers(0, 3, (5000, 2)).astype(np.float32)
    for small in (array[:2], array):
        result = client.infer(
            "m",
            [given(small)],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        assert np.array_equal(result.as_numpy("y"), small)


def test_a_body_that_grows_beyond_the_limit_is_refused(url: str, serving: ServingProcess) -> None:
    with triton.InferenceServerClient(url) as client:
        bomb = gzip.compress(bytes(2**24))
        response = client._client_stub.post(
            request_uri="/v2/models/m/infer", body=bomb, headers={"Content-Encoding": "gzip"}
        )
        assert response.status_code == 413
        response = client._client_stub.post(
            request_uri="/v2/models/m/infer",
            body=b"no gzip" * 1000,
            headers={"Content-Encoding": "gzip"},
        )
        assert response.status_code == 400
        assert "not gzip" in json.loads(response.read())["error"]
        assert client.is_server_live()


def test_a_body_without_json_is_the_only_input(url: str) -> None:
    with triton.InferenceServerClient(url) as client:
        response = client._client_stub.post(
            request_uri="/v2/models/m/infer",
            body=np.array([3, 4], np.float32).tobytes(),
            headers={"Inference-Header-Content-Length": "0"},
        )
        assert response.status_code == 200
        length = int(response.get("Inference-Header-Content-Length"))
        body = response.read()
        assert np.frombuffer(body[length:], np.float32).tolist() == [3, 4]
        response = client._client_stub.post(
            request_uri="/v2/models/m/infer", body=b"123", headers={"Inference-Header-Content-Length": "0"}
        )
        assert response.status_code == 400


def test_several_at_a_time(client: triton.InferenceServerClient) -> None:
    big = np.full((512, 512), 1e-3, np.float32)
    pending = [client.async_infer("m", [given(X * number)]) for number in range(20)]
    slow = client.async_infer("slow", [given(big)])
    assert [pending[number].get_result().as_numpy("y")[0, 0] for number in range(20)] == list(range(20))
    assert slow.get_result().as_numpy("y").shape == (512, 512)


def test_asyncio(url: str) -> None:
    async def scenario() -> None:
        async with triton_aio.InferenceServerClient(url) as client:
            assert await client.is_server_ready()
            results = await asyncio.gather(*(client.infer("m", [given(X * number)]) for number in range(20)))
            assert [result.as_numpy("y")[0, 0] for result in results] == list(range(20))
            with pytest.raises(InferenceServerException, match="no model 'none'"):
                await client.infer("none", [given(X)])

    asyncio.run(scenario())


def test_refusals_are_one_sentence_and_the_connection_goes_on(client: triton.InferenceServerClient) -> None:
    assert refused(client.infer, "none", [given(X)])[0] == "404"
    assert refused(client.infer, "m", [given(X)], model_version="9")[0] == "404"
    assert refused(client.get_model_metadata, "none")[0] == "404"
    for tensor in (given(X, name="z"), given(X.astype(np.int32), "INT32"), given(X[:, :1])):
        status, message = refused(client.infer, "m", [tensor])
        assert status == "400"
        assert message.endswith(".")
    assert np.array_equal(client.infer("m", [given(X)]).as_numpy("y"), X)


def test_timeout_and_priority_are_taken(client: triton.InferenceServerClient) -> None:
    result = client.infer("m", [given(X)], priority=1, timeout=10_000_000)
    assert np.array_equal(result.as_numpy("y"), X)
    big = np.full((512, 512), 1e-3, np.float32)
    assert refused(client.infer, "slow", [given(big)], timeout=1000)[0] == "504"


def test_the_index_lists_what_is_served(client: triton.InferenceServerClient) -> None:
    index = client.get_model_repository_index()
    assert {"name": "m", "version": "2", "state": "READY", "reason": ""} in index
