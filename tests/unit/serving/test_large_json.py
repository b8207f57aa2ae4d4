"""Large JSON is read and written on another thread, and is what it would be on the loop's."""

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_agent.documents.errors import EdgeAgentError, ModelLoadError, RequestError
from edge_agent.documents.tensors import DATATYPE_OF_NUMPY, TensorSpec
from edge_agent.serving import large_json, oip
from edge_agent.serving.calls import IN_BINARY, IN_JSON, Answer, Delivery, InferRequest, Signature
from edge_agent.serving.http_infer import HttpCall
from edge_agent.serving.http_messages import Request, Response
from edge_agent.serving.json_pieces import LARGE_BYTES, LARGE_COUNT
from edge_agent.serving.large_json import LargeJson, decoded, is_large, is_large_answer
from edge_agent.serving.memo import Hit, Written

SIGNATURE = Signature({"x": TensorSpec("x", "FP32", (-1, 2))}, {"y": TensorSpec("y", "FP32", (-1, 2))})
X = np.random.default_rng(1).random((30_000, 2)).round(6)


class Nobody:
    """Waits for no answer."""

    is_abandoned = False

    def send(self, response: Response) -> None:
        raise NotImplementedError

    def peer_uid(self) -> int | None:
        return None

    def reserve(self, size_bytes: int) -> bool:
        return True


class Somebody(Nobody):
    """Waits for one answer."""

    def __init__(self) -> None:
        self.heard: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def send(self, response: Response) -> None:
        self.heard.set_result(response)


class Learner:
    """Learns what it is told as a memo."""

    def __init__(self) -> None:
        self.learnt: list[tuple[bytes, Hit, Written]] = []

    def learn(self, *what: Any) -> None:
        self.learnt.append(what)


def request(body: bytes) -> Request:
    return Request("POST", "/v2/models/m/infer", {}, body, keep_alive=True, is_http10=False)


def body(data: Any = None, **changes: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": X.shape, "data": X.tolist() if data is None else data}
    return json.dumps({"inputs": [tensor | changes]}).encode()


def read(content: bytes, reply: Any = None) -> oip.Unbound | Exception:
    async def scenario() -> oip.Unbound | Exception:
        read: asyncio.Future[oip.Unbound | Exception] = asyncio.get_running_loop().create_future()
        LargeJson().read(request(content), None, reply or Nobody(), read.set_result)
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
    monkeypatch.setattr(large_json, "_pause", lambda: threads.append(threading.current_thread().name))
    unbound = read(body(data))
    assert isinstance(unbound, oip.Unbound)
    assert set(threads) == {"json-0"}
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
        reader, loop = LargeJson(), asyncio.get_running_loop()
        for content, kind in ((b"{" * LARGE_BYTES, RequestError), (body(), oip.Unbound)):
            read: asyncio.Future[Any] = loop.create_future()
            reader.read(request(content), None, Nobody(), read.set_result)
            assert isinstance(await asyncio.wait_for(read, 10), kind)

    asyncio.run(scenario())


def test_who_has_gone_is_not_read_for() -> None:
    async def scenario() -> None:
        reader, gone, loop = LargeJson(), Nobody(), asyncio.get_running_loop()
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


def answer(outputs: dict[str, Any], **deliveries: Delivery) -> Answer:
    specs = {
        name: TensorSpec(name, DATATYPE_OF_NUMPY[tensor.dtype.name], (-1,)) for name, tensor in outputs.items()
    }
    wanted = dict.fromkeys(outputs, IN_JSON) | deliveries
    return Answer(InferRequest("id", {}, {}, wanted), "m", "1", Signature({}, specs), outputs, {"arm": "1"})


def write(*answers: Answer) -> list[oip.Rendered | EdgeAgentError]:
    async def scenario() -> list[oip.Rendered | EdgeAgentError]:
        large, loop = LargeJson(), asyncio.get_running_loop()
        results = []
        for each in answers:
            written: asyncio.Future[oip.Rendered | EdgeAgentError] = loop.create_future()
            large.write(each, Nobody(), written.set_result)
            results.append(await asyncio.wait_for(written, 10))
        return results

    return asyncio.run(scenario())


MANY = np.random.default_rng(2).random(LARGE_COUNT)


def test_large_answers_are_those_with_many_numbers_in_json() -> None:
    few, text = MANY[1:], np.array([b"x"], np.object_)
    assert is_large_answer(answer({"y": MANY}))
    assert not is_large_answer(answer({"y": few}))
    assert is_large_answer(answer({"y": few, "z": few}))
    assert not is_large_answer(answer({"y": MANY}, y=IN_BINARY))
    assert is_large_answer(answer({"y": MANY, "z": few}, z=IN_BINARY))
    assert not is_large_answer(answer({"y": MANY, "z": few}, z=Delivery(True, 0, "region")))
    assert not is_large_answer(answer({"y": MANY}, y=Delivery(classes=3)))
    # Whether that is UTF-8 is not known before it is written.
    assert not is_large_answer(answer({"y": MANY, "z": text}))


@pytest.mark.parametrize("datatype", [name for name in DATATYPE_OF_NUMPY if name not in ("object", "float16")])
def test_a_large_answer_is_the_same_as_when_written_at_once(
    datatype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    monkeypatch.setattr(large_json, "_pause", lambda: threads.append(threading.current_thread().name))
    tensor = (np.tile(MANY, 3)[:-7] * 100).astype(datatype).reshape(5, -1)
    given = answer({"y": tensor, "z": MANY}, z=IN_BINARY)
    (written,) = write(given)
    assert not isinstance(written, EdgeAgentError)
    assert set(threads) == {"json-0"}
    json_text, length = written[0][0], written[1]
    assert length == len(json_text)
    assert bytes(written[0][1]) == MANY.tobytes()
    told = json.loads(bytes(json_text))
    expected = {"name": "y", "datatype": given.signature.outputs["y"].datatype, "shape": [5, tensor.size // 5]}
    assert told["outputs"][0] == expected | {"data": tensor.ravel().tolist()}
    assert bytes(json_text).count(msgspec.json.encode(tensor.ravel().tolist())) == 1


def test_what_json_cannot_carry_is_refused_before_anything_is_written() -> None:
    with pytest.raises(RequestError, match="Output 'y' has NaN or infinity"):
        write(answer({"y": np.append(MANY, np.inf)}))
    (written,) = write(answer({"y": MANY, "z": np.array([np.nan])}, z=IN_BINARY))
    assert not isinstance(written, EdgeAgentError)


def test_an_answer_that_cannot_be_written_is_an_error_and_the_thread_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        if not failed:
            failed.append(True)
            raise MemoryError("none left")

    failed: list[bool] = []
    monkeypatch.setattr(large_json, "_pause", fail)
    error, written = write(answer({"y": MANY}), answer({"y": MANY}))
    assert isinstance(error, ModelLoadError)
    assert str(error) == "The answer cannot be written: MemoryError: none left."
    assert not isinstance(written, EdgeAgentError)


def test_a_hit_is_remembered_once_its_answer_is_written() -> None:
    async def scenario() -> None:
        memo: Any = Learner()
        somebody = Somebody()
        asked = msgspec.structs.replace(request(body([[1.0, 2.0]], shape=[1, 2])), raw=b"raw")
        call = HttpCall(asked, somebody, memo, large=LargeJson())
        hit: Any = SimpleNamespace(remembered=object())
        call.answer(msgspec.structs.replace(answer({"y": MANY}), parameters={"prediction_id": "an-id"}))
        call.note_hit(hit)
        assert memo.learnt == []
        response = await asyncio.wait_for(somebody.heard, 10)
        ((raw, learnt_hit, written),) = memo.learnt
        assert (raw, learnt_hit, written.remembered) == (b"raw", hit, hit.remembered)
        assert b"".join(written.answer("an-id").body) == b"".join(response.body)

    asyncio.run(scenario())
