"""The gRPC server of serving, asked by Triton's own client, unmodified."""

import asyncio
import queue

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import GrpcSettings, HttpSettings
from edge_agent.documents.tensors import NUMPY_NAME
from support.serving import (
    ONNX_TYPES,
    ServingProcess,
    identity_onnx,
    slow_onnx,
    version_plan,
)

LIMIT_S = 20.0
BODY_LIMIT = 2**21
X = np.array([[1, 2]], np.float32)
SERVICE = "/inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """Identities of every datatype, each named after its own, `m` of FP32, and a slow model."""
    folder = tmp_path_factory.mktemp("grpc")
    http = HttpSettings(max_body_bytes=BODY_LIMIT)
    with ServingProcess(folder / "s", http, GrpcSettings(socket=True, tcp_port=0)) as process:
        versions = [
            version_plan(identity_onnx(folder / f"{datatype}.onnx", datatype), datatype.lower())
            for datatype in ONNX_TYPES
        ]
        plain = identity_onnx(folder / "m.onnx")
        versions += [version_plan(plain, "m", "1"), version_plan(plain, "m", "2", 0.0)]
        versions.append(version_plan(slow_onnx(folder / "slow.onnx"), "slow"))
        assert isinstance(process.apply(*versions), Applied)
        yield process


@pytest.fixture(params=["tcp", "unix"])
def url(request, serving):
    return serving.grpc_tcp if request.param == "tcp" else serving.grpc_unix


@pytest.fixture
def client(serving):
    with triton.InferenceServerClient(serving.grpc_unix) as client:
        yield client


@pytest.fixture
def raw(serving):
    """Calls a method with bytes, and returns bytes."""
    with grpc.insecure_channel(serving.grpc_unix) as channel:
        yield lambda name, content=b"", **more: channel.unary_unary(f"{SERVICE}/{name}")(
            content, timeout=LIMIT_S, **more
        )


def given(array, datatype="FP32", name="x"):
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def big():
    return given(np.full((512, 512), 1e-3, np.float32))


def refused(call, *arguments, **more):
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **more)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def test_the_server_and_its_models_are_described(url):
    with triton.InferenceServerClient(url) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("m")
        assert client.is_model_ready("m", "2")
        assert not client.is_model_ready("m", "3")
        assert not client.is_model_ready("none")
        assert client.get_server_metadata().name == "edge-agent"
        described = client.get_model_metadata("m", "2", as_json=True)
    assert described["versions"] == ["1", "2"]
    assert described["platform"] == "onnxruntime_onnx"
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "2"]}]
    assert described["outputs"] == [{"name": "y", "datatype": "FP32", "shape": ["-1", "2"]}]


def test_an_inference_is_answered_as_over_http(url):
    with triton.InferenceServerClient(url) as client:
        result = client.infer("m", [given(X)], request_id="seven", model_version="2")
    assert np.array_equal(result.as_numpy("y"), X)
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == ("m", "2", "seven")
    assert set(response.parameters) == {"prediction_id", "arm", "cache"}
    assert response.parameters["arm"].string_param == "direct"


@pytest.mark.parametrize("datatype", ONNX_TYPES)
def test_every_datatype_comes_back_as_it_was(client, datatype):
    if datatype == "BYTES":
        array = np.array([["", "ü\0"], ["x" * 1000, "4"]], np.object_)
        array = np.char.encode(array.astype(np.str_), "utf-8").astype(np.object_)
    elif datatype == "BF16":
        array = np.array([[0, 1], [100, 7]], ml_dtypes.bfloat16)
    else:
        array = np.array([[0, 1], [100, 7]]).astype(NUMPY_NAME[datatype])
    result = client.infer(datatype.lower(), [given(array, datatype)])
    assert np.array_equal(result.as_numpy("y"), array)


def test_nan_and_infinity_have_a_form(client):
    array = np.array([[np.nan, -np.inf]], np.float32)
    assert np.array_equal(client.infer("m", [given(array)]).as_numpy("y"), array, equal_nan=True)


def test_only_the_wanted_outputs_are_sent(client):
    result = client.infer("m", [given(X)], outputs=[triton.InferRequestedOutput("y")])
    assert np.array_equal(result.as_numpy("y"), X)
    code, message = refused(client.infer, "m", [given(X)], outputs=[triton.InferRequestedOutput("z")])
    assert code == "INVALID_ARGUMENT"
    assert message == "The model has no output 'z'; its outputs are 'y'."


def test_refusals_are_one_sentence_and_the_connection_goes_on(client):
    assert refused(client.infer, "none", [given(X)])[0] == "NOT_FOUND"
    assert refused(client.infer, "m", [given(X)], model_version="9")[0] == "NOT_FOUND"
    assert refused(client.get_model_metadata, "none")[0] == "NOT_FOUND"
    for tensor in (
        given(X, name="z"),
        given(X.astype(np.int32), "INT32"),
        given(X[:, :1]),
        given(X[:0]),
    ):
        code, message = refused(client.infer, "m", [tensor])
        assert code == "INVALID_ARGUMENT"
        assert message.endswith(".")
        assert "\n" not in message
    assert refused(client.infer, "m", [])[1] == "The input 'x' is missing."
    assert refused(client.infer, "m", [given(X), given(X)])[1] == "Input 'x' is given twice."
    assert np.array_equal(client.infer("m", [given(X)]).as_numpy("y"), X)


def test_what_is_not_served_says_so(client):
    for call in (client.get_trace_settings, client.get_log_settings, client.get_cuda_shared_memory_status):
        code, message = refused(call)
        assert code == "UNIMPLEMENTED"
        assert message.endswith(".")


def test_bytes_that_are_no_message_are_refused(raw, client):
    for name in ("ModelInfer", "ModelMetadata"):
        with pytest.raises(grpc.RpcError) as caught:
            raw(name, b"\xff\xff\xff")
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as caught:
        raw("NoSuchCall")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert client.is_server_live()


def test_messages_over_the_limit_are_refused(client):
    large = given(np.zeros((BODY_LIMIT // 8, 2), np.float32))
    assert refused(client.infer, "m", [large])[0] == "RESOURCE_EXHAUSTED"
    # A few KB that unpack to more than the limit.
    code, _ = refused(client.infer, "m", [large], compression_algorithm="gzip")
    assert code == "RESOURCE_EXHAUSTED"
    assert client.is_server_live()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_read(client, algorithm):
    result = client.infer("m", [given(X)], compression_algorithm=algorithm)
    assert np.array_equal(result.as_numpy("y"), X)


def test_the_unit_of_an_experiment_comes_as_parameter_or_metadata(client):
    for more in ({"parameters": {"unit": "a"}}, {"headers": {"edge-unit": "a"}}):
        assert client.infer("m", [given(X)], **more).get_response().parameters["arm"].string_param == "1"
    code, _ = refused(client.infer, "m", [given(X)], headers={"edge-unit": "a" * 1000})
    assert code == "INVALID_ARGUMENT"


def test_async_infer_calls_back(client):
    results = queue.SimpleQueue()
    for number in range(20):
        array = X + number
        client.async_infer("m", [given(array)], lambda result, error: results.put((result, error)))
    answers = [results.get(timeout=LIMIT_S) for _ in range(20)]
    assert all(error is None for _, error in answers)
    assert sorted(result.as_numpy("y")[0, 0] for result, _ in answers) == list(range(1, 21))


def test_a_stream_answers_in_order_and_goes_on_after_an_error(client):
    results = queue.SimpleQueue()
    client.start_stream(lambda result, error: results.put((result, error)))
    for number in range(200):
        model = "none" if number % 10 == 5 else "m"
        client.async_stream_infer(model, [given(X + number)], request_id=str(number))
    for number in range(200):
        result, error = results.get(timeout=LIMIT_S)
        if number % 10 == 5:
            assert error.message().startswith("There is no model 'none' here")
        else:
            assert result.get_response().id == str(number)
            assert np.array_equal(result.as_numpy("y"), X + number)
    client.stop_stream()


def test_the_asyncio_client_is_answered(url):
    async def ask():
        async with triton_aio.InferenceServerClient(url) as client:
            assert await client.is_server_ready()
            results = await asyncio.gather(*(client.infer("m", [given(X + number)]) for number in range(20)))
            for number, result in enumerate(results):
                assert np.array_equal(result.as_numpy("y"), X + number)

            async def requests():
                for number in range(5):
                    yield {"model_name": "m", "inputs": [given(X + number)], "request_id": str(number)}

            numbers = []
            async for result, error in client.stream_infer(requests()):
                assert error is None
                numbers.append(int(result.get_response().id))
            assert numbers == list(range(5))

    asyncio.run(ask())


def test_a_deadline_ends_the_call(client):
    code, _ = refused(client.infer, "slow", [big()], client_timeout=0.001)
    assert code == "DEADLINE_EXCEEDED"
    assert client.is_server_live()


def test_what_is_cancelled_while_it_waits_is_not_run(serving, client):
    slow = next(slot for key, slot in serving._slots.items() if key.startswith("slow"))

    def requests():
        return serving.page.snapshot().slots[slow].requests

    before, ends = requests(), queue.SimpleQueue()

    def ask():
        return client.async_infer("slow", [big()], lambda result, error: ends.put(error))

    calls = [ask() for _ in range(40)]
    for call in calls[2:]:
        call.cancel()
    ask()
    errors = [ends.get(timeout=LIMIT_S) for _ in range(41)]
    assert {error.status() for error in errors if error is not None} == {"StatusCode.CANCELLED"}
    assert errors.count(None) < 20
    assert requests() - before < 20


def test_a_thousand_calls_leave_nothing_behind(serving, client):
    def threads():
        return len(list((serving.proc / "task").iterdir()))

    def anonymous_kib():
        lines = (serving.proc / "smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

    tensor = given(X)
    for _ in range(300):
        client.infer("m", [tensor])
    before, before_kib = threads(), anonymous_kib()
    for _ in range(1000):
        client.infer("m", [tensor])
    assert threads() <= before + 2
    assert anonymous_kib() < before_kib + 1024
