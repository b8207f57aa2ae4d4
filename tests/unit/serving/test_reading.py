"""Requests with large JSON are read on another thread, and told about as they would be on the loop's."""

import asyncio
import json
import threading
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import TensorSpec
from edge_agent.serving import oip, reading
from edge_agent.serving.calls import Signature
from edge_agent.serving.http_messages import Request, Response
from edge_agent.serving.json_pieces import LARGE_BYTES
from edge_agent.serving.reading import Reader, decoded, is_large

SIGNATURE = Signature({"x": TensorSpec("x", "FP32", (-1, 2))}, {"y": TensorSpec("y", "FP32", (-1, 2))})
X = np.random.default_rng(1).random((30_000, 2)).round(6)


class Nobody:
    is_abandoned = False

    def send(self, response: Response) -> None:
        raise NotImplementedError

    def peer_uid(self) -> int | None:
        return None


def request(body: bytes) -> Request:
    return Request("POST", "/v2/models/m/infer", {}, body, keep_alive=True, is_http10=False)


def body(data: Any = None, **changes: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": X.shape, "data": X.tolist() if data is None else data}
    return json.dumps({"inputs": [tensor | changes]}).encode()


def read(content: bytes, reply: Any = None) -> oip.Unbound | Exception:
    async def scenario() -> oip.Unbound | Exception:
        read: asyncio.Future[oip.Unbound | Exception] = asyncio.get_running_loop().create_future()
        Reader().read(request(content), None, reply or Nobody(), read.set_result)
        return await asyncio.wait_for(read, 10)

    return asyncio.run(scenario())


def test_large_is_what_has_much_json() -> None:
    large, small = request(bytes(LARGE_BYTES)), request(bytes(LARGE_BYTES - 1))
    assert is_large(large, None)
    assert not is_large(small, None)
    assert not is_large(large, b"100")
    assert is_large(large, str(LARGE_BYTES).encode())
    assert is_large(large, b"nonsense")


@pytest.mark.parametrize("data", [X.tolist(), X.ravel().tolist()])
def test_tensors_are_decoded_by_then(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    monkeypatch.setattr(reading, "_pause", lambda: threads.append(threading.current_thread().name))
    unbound = read(body(data))
    assert isinstance(unbound, oip.Unbound)
    assert set(threads) == {"read-0"}
    bound = oip.bind(unbound, SIGNATURE)
    assert unbound.tensors is not None
    assert bound.inputs["x"] is unbound.tensors["x"]
    assert np.array_equal(bound.inputs["x"], X.astype(np.float32))


@pytest.mark.parametrize(
    "content",
    [
        body(name="z"),
        body(shape=[1, 2]),
        body(shape=[-1, 2]),
        body(shape=[0, 0]),
        body(shape=[]),
        body(datatype="INT64"),
        body(datatype="FP16"),
        body(datatype="nothing"),
        body([*X.ravel().tolist(), "x"]),
        body([*X.tolist(), [1.0]]),
        body({"a": X.tolist()}),
        body("x" * LARGE_BYTES),
        body(["x" * LARGE_BYTES], datatype="BYTES"),
    ],
)
def test_what_is_wrong_is_told_as_ever(content: bytes) -> None:
    unbound = read(content)
    assert isinstance(unbound, oip.Unbound)
    with pytest.raises(RequestError) as later:
        oip.bind(unbound, SIGNATURE)
    with pytest.raises(RequestError) as at_once:
        oip.bind(oip.read(content, None), SIGNATURE)
    assert str(later.value) == str(at_once.value)


def test_a_body_that_is_none_is_an_error_and_the_thread_goes_on() -> None:
    async def scenario() -> None:
        reader, loop = Reader(), asyncio.get_running_loop()
        for content, kind in ((b"{" * LARGE_BYTES, RequestError), (body(), oip.Unbound)):
            read: asyncio.Future[Any] = loop.create_future()
            reader.read(request(content), None, Nobody(), read.set_result)
            assert isinstance(await asyncio.wait_for(read, 10), kind)

    asyncio.run(scenario())


def test_who_has_gone_is_not_read_for() -> None:
    async def scenario() -> None:
        reader, gone, loop = Reader(), Nobody(), asyncio.get_running_loop()
        gone.is_abandoned = True
        called: list[Any] = []
        reader.read(request(body()), None, gone, called.append)
        read: asyncio.Future[Any] = loop.create_future()
        reader.read(request(body()), None, Nobody(), read.set_result)
        await asyncio.wait_for(read, 10)
        assert called == []

    asyncio.run(scenario())


def test_small_inputs_are_left_to_the_binding() -> None:
    unbound = oip.read(body([[1.0, 2.0]], shape=[1, 2]), None)
    assert decoded(unbound, lambda: None).tensors == {}
    assert isinstance(unbound.infer.inputs[0].data, msgspec.Raw)
