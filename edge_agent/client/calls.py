"""What the clients say and understand, without input and output: requests as bytes, answers from bytes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import quote

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.client.wire import Call, Reply, request_bytes
from edge_agent.documents import binary_tensors
from edge_agent.documents.errors import (
    DeadlineExceededError,
    DuplicateError,
    EdgeAgentError,
    ForbiddenError,
    ModelError,
    NotFoundError,
    PayloadTooLargeError,
    RequestError,
    TooLateError,
    UnavailableError,
)
from edge_agent.documents.tensors import DATATYPE_OF_NUMPY, TensorSpec

T = TypeVar("T")

_JSON: Final = "Content-Type: application/json\r\n"
_ERRORS: Final[dict[int, type[EdgeAgentError]]] = {
    403: ForbiddenError,
    404: NotFoundError,
    409: DuplicateError,
    410: TooLateError,
    413: PayloadTooLargeError,
}


@dataclass(frozen=True, slots=True)
class InferResult:
    """The answer to one inference request; `outputs` are numpy arrays by name, and may be read-only."""

    outputs: Mapping[str, NDArray[Any]]
    model_name: str
    model_version: str
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prediction_id(self) -> str:
        """What an outcome of this answer is told with; raises RequestError if the answer has none."""
        found = self.parameters.get("prediction_id")
        if not isinstance(found, str):
            raise RequestError("This answer has no prediction id, so that no outcome can be told of it.")
        return found

    @property
    def arm(self) -> str | None:
        """The arm that answered, or `fallback` or `direct`, neither of which is compared."""
        return self.parameters.get("arm")

    @property
    def cache(self) -> str | None:
        """`hit`, `miss` or `bypass`."""
        return self.parameters.get("cache")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An outcome that was not taken: its place in the list, an HTTP status, and why in one sentence.

    Status 409: one was taken already, so that nothing is left to do; 410: too late; 400: it is wrong.
    """

    index: int
    status: int
    error: str


@dataclass(frozen=True, slots=True)
class OutcomesResult:
    """What became of a list of outcomes; `duplicates` counts those of the refused that were taken before."""

    accepted: int
    duplicates: int
    refused: tuple[Refusal, ...]
    """The first 1000."""


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What the agent says about a model; `parameters` has its labels, precision and digest."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: dict[str, Any] = field(default_factory=dict)

    def only_input(self) -> str:
        """Return the name of the model's input; raises RequestError if it has several."""
        if len(self.inputs) != 1:
            names = ", ".join(spec.name for spec in self.inputs)
            raise RequestError(f"Model '{self.name}' has several inputs, {names}; give the arrays by name.")
        return self.inputs[0].name


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One version of one model that the agent serves."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in shared memory."""

    region: str
    offset: int
    size_bytes: int

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that say so."""
        return {
            "shared_memory_region": self.region,
            "shared_memory_offset": self.offset,
            "shared_memory_byte_size": self.size_bytes,
        }


def infer_call(
    model: str,
    version: str | None,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Sequence[str] | None,
    parameters: Mapping[str, Any] | None,
    request_id: str | None,
    places: Mapping[str, Place] | None = None,
    head: str = "",
) -> Call[InferResult]:
    """Return the call that runs a model once; raises RequestError for an array of no datatype.

    `places` are those of inputs in shared memory, `head` further lines of the head.
    """
    described: list[dict[str, Any]] = []
    blobs: list[memoryview] = []
    for name, tensor in inputs.items():
        array = np.asarray(tensor)
        datatype = _datatype(name, array)
        if places and name in places:
            place = places[name].parameters()
            described.append({"name": name, "shape": array.shape, "datatype": datatype, "parameters": place})
            continue
        blobs.append(binary_tensors.encode(array, datatype))
        size = {"binary_data_size": blobs[-1].nbytes}
        described.append({"name": name, "shape": array.shape, "datatype": datatype, "parameters": size})
    content: dict[str, Any] = {
        "inputs": described,
        "parameters": {**(parameters or {}), "binary_data_output": True},
    }
    if outputs is not None:
        content["outputs"] = [{"name": name} for name in outputs]
    if request_id is not None:
        content["id"] = request_id
    json = msgspec.json.encode(content)
    head += f"{binary_tensors.HEADER_LENGTH}: {len(json)}\r\nContent-Type: application/octet-stream\r\n"
    return Call(
        request_bytes("POST", f"{_model_path(model, version)}/infer", head, (json, *blobs)), read_result
    )


def with_timeout(parameters: Mapping[str, Any] | None, timeout_s: float | None) -> Mapping[str, Any] | None:
    """Return the parameters of a request whose caller waits so long for it."""
    if timeout_s is None or (parameters is not None and "timeout" in parameters):
        return parameters
    return {**(parameters or {}), "timeout": max(1, int(timeout_s * 1e6))}


def plain_call(method: str, path: str, body: bytes) -> Call[None]:
    """Return a call whose answer is that it was done."""

    def read(reply: Reply) -> None:
        if reply.status != 200:
            _raise(reply)

    return Call(request_bytes(method, path, _JSON, (body,)), read)


def metadata_call(model: str, version: str | None) -> Call[ModelMetadata]:
    """Return the call that asks for a model's metadata."""
    return Call(request_bytes("GET", _model_path(model, version)), lambda reply: decoded(reply, ModelMetadata))


def ready_call(model: str | None, version: str | None) -> Call[bool]:
    """Return the call that asks whether the server, or a model, is ready."""
    path = "/v2/health/ready" if model is None else f"{_model_path(model, version)}/ready"
    return Call(request_bytes("GET", path), lambda reply: reply.status == 200)


def index_call() -> Call[tuple[ModelEntry, ...]]:
    """Return the call that asks which models are served."""
    request = request_bytes("POST", "/v2/repository/index")
    return Call(request, lambda reply: decoded(reply, tuple[ModelEntry, ...]))


def outcome_call(model: str, prediction_id: str, values: Mapping[str, float]) -> Call[None]:
    """Return the call that tells one outcome; raises RequestError for a value that is no number."""

    def read(reply: Reply) -> None:
        if reply.status != 202:
            _raise(reply)

    return Call(_outcomes_request(model, [(prediction_id, values)]), read)


def outcomes_call(model: str, outcomes: Iterable[tuple[str, Mapping[str, float]]]) -> Call[OutcomesResult]:
    """Return the call that tells many outcomes; raises RequestError for a value that is no number."""

    def read(reply: Reply) -> OutcomesResult:
        # A list of which nothing was taken is answered with an error that says as much.
        if reply.status in (202, 400, 409, 410) and b'"refused"' in reply.body:
            return decoded(reply, OutcomesResult, status=reply.status)
        _raise(reply)

    return Call(_outcomes_request(model, outcomes), read)


def _outcomes_request(model: str, outcomes: Iterable[tuple[str, Mapping[str, float]]]) -> bytes:
    described = []
    for prediction_id, values in outcomes:
        try:
            numbers = {name: float(value) for name, value in values.items()}
        except (TypeError, ValueError) as error:
            raise RequestError(f"A value of an outcome is no number: {error}.") from error
        described.append({"prediction_id": prediction_id, "values": numbers})
    json = msgspec.json.encode({"outcomes": described})
    return request_bytes("POST", f"{_model_path(model, None)}/outcomes", _JSON, (json,))


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Any]


class _Error(msgspec.Struct):
    error: str


class _Answer(msgspec.Struct):
    model_name: str
    model_version: str
    outputs: list[_Output]
    id: str | None = None
    parameters: dict[str, Any] = {}


def read_result(reply: Reply) -> InferResult:
    """Return the answer to an inference; raises the error that it tells."""
    body = memoryview(reply.body)
    length = int(reply.headers.get(binary_tensors.HEADER_LENGTH.lower().encode(), len(body)))
    answer = decoded(reply, _Answer, body[:length])
    tensors: dict[str, NDArray[Any]] = {}
    position = length
    for output in answer.outputs:
        end = position + int(output.parameters["binary_data_size"])
        tensors[output.name] = binary_tensors.decode(
            body[position:end], output.name, output.datatype, output.shape
        )
        position = end
    return InferResult(tensors, answer.model_name, answer.model_version, answer.id, answer.parameters)


def decoded(reply: Reply, kind: type[T], json: memoryview | None = None, status: int = 200) -> T:
    """Return what an answer's JSON is; raises the error that it tells if its status is another."""
    if reply.status != status:
        _raise(reply)
    try:
        return msgspec.json.decode(reply.body if json is None else json, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnavailableError(f"What answers is no agent: {error}; check the address.") from error


def _raise(reply: Reply) -> NoReturn:
    try:
        message = msgspec.json.decode(reply.body, type=_Error).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        message = f"The server answered with status {reply.status} and no reason."
    if reply.status in (503, 504):
        retry_after = reply.headers.get(b"retry-after", b"1")
        kind = UnavailableError if reply.status == 503 else DeadlineExceededError
        raise kind(message, float(retry_after) if retry_after.isdigit() else 1.0)
    raise _ERRORS.get(reply.status, RequestError if reply.status < 500 else ModelError)(message)


def _datatype(name: str, array: NDArray[Any]) -> str:
    if array.dtype.kind in "OSU":
        return "BYTES"
    datatype = DATATYPE_OF_NUMPY.get(array.dtype.name)
    if datatype is None:
        raise RequestError(f"Input '{name}' is of {array.dtype}, which the protocol has no datatype for.")
    return datatype


def _model_path(model: str, version: str | None) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"
