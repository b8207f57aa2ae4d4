"""What the clients say and understand, without input and output: requests as bytes, answers from bytes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, NoReturn, TypeVar
from urllib.parse import quote, urlsplit

import httptools
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.documents import binary_tensors
from edge_agent.documents.errors import (
    DeadlineExceededError,
    DuplicateError,
    EdgeAgentError,
    ModelError,
    NotFoundError,
    OperatorError,
    PayloadTooLargeError,
    RequestError,
    SettingsError,
    TooLateError,
    UnavailableError,
)
from edge_agent.documents.places import this_process_places
from edge_agent.documents.tensors import DATATYPE_OF_NUMPY, TensorSpec
from edge_agent.store.layout import RuntimeLayout

T = TypeVar("T")

_JSON: Final = "Content-Type: application/json\r\n"
_SERVICE: Final = Path("/run/edge-agent")
_ERRORS: Final[dict[int, type[EdgeAgentError]]] = {
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
class Address:
    """Where the agent listens: a Unix socket, or a host and port."""

    path: str | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return self.path or f"http://{self.host}:{self.port}"


def find_address(where: str | Path | None) -> Address:
    """Return the address of a socket's path or an `http://host:port`; of this host's agent if None."""
    if where is None:
        service = RuntimeLayout(_SERVICE).infer_socket
        own = RuntimeLayout(this_process_places().runtime).infer_socket
        return Address(str(service if service.exists() else own))
    if not str(where).startswith(("http://", "https://")):
        return Address(str(where))
    try:
        url = urlsplit(str(where))
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if host is None or url.scheme != "http":
        raise SettingsError(f"'{where}' is no address of an agent; give a socket's path or http://HOST:PORT.")
    return Address(host=host, port=port or 80)


def unreachable(address: Address, error: OSError) -> EdgeAgentError:
    """Return the error of a connection that could not be made."""
    if isinstance(error, PermissionError):
        return OperatorError(
            f"This user may not use {address}; add it to the group that http.socket_group names, "
            "or run as the agent's user."
        )
    return UnavailableError(
        f"No agent answers at {address} ({error.strerror or error}); "
        "start one with 'edge-agent run' or 'edge-agent serve MODEL'."
    )


def broken(address: Address) -> EdgeAgentError:
    """Return the error of a connection that ended before the answer."""
    return UnavailableError(f"The agent at {address} closed the connection before it answered; try again.")


def late(timeout_s: float) -> EdgeAgentError:
    """Return the error of a call that took too long."""
    return DeadlineExceededError(
        f"No answer came within {timeout_s:g} s; try again, or give the call more with timeout_s."
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the server; header names are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, as bytes, and how its answer is read; `read` raises the error that the answer tells."""

    request: bytes
    read: Callable[[Reply], T]


class Exchange:
    """Puts one answer together from what comes in."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self.reply: Reply | None = None

    def feed(self, data: bytes) -> Reply | None:
        """Take bytes; return the answer once it is whole. Raises UnavailableError on what is no HTTP."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise UnavailableError(f"What answers is no agent: {error}; check the address.") from error
        return self.reply

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header."""
        self._headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        """Collect the body."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """Keep the answer."""
        self.reply = Reply(
            self._parser.get_status_code(),
            self._headers,
            b"".join(self._parts),
            self._parser.should_keep_alive(),
        )


def infer_call(
    model: str,
    version: str | None,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Sequence[str] | None,
    parameters: Mapping[str, Any] | None,
    request_id: str | None,
) -> Call[InferResult]:
    """Return the call that runs a model once; raises RequestError for an array of no datatype."""
    described: list[dict[str, Any]] = []
    blobs: list[memoryview] = []
    for name, tensor in inputs.items():
        array = np.asarray(tensor)
        datatype = _datatype(name, array)
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
    head = f"{binary_tensors.HEADER_LENGTH}: {len(json)}\r\nContent-Type: application/octet-stream\r\n"
    return Call(_request("POST", f"{_model_path(model, version)}/infer", head, (json, *blobs)), _read_result)


def metadata_call(model: str, version: str | None) -> Call[ModelMetadata]:
    """Return the call that asks for a model's metadata."""
    return Call(_request("GET", _model_path(model, version)), lambda reply: _decode(reply, ModelMetadata))


def ready_call(model: str | None, version: str | None) -> Call[bool]:
    """Return the call that asks whether the server, or a model, is ready."""
    path = "/v2/health/ready" if model is None else f"{_model_path(model, version)}/ready"
    return Call(_request("GET", path), lambda reply: reply.status == 200)


def index_call() -> Call[tuple[ModelEntry, ...]]:
    """Return the call that asks which models are served."""
    request = _request("POST", "/v2/repository/index")
    return Call(request, lambda reply: _decode(reply, tuple[ModelEntry, ...]))


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
            return _decode(reply, OutcomesResult, status=reply.status)
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
    return _request("POST", f"{_model_path(model, None)}/outcomes", _JSON, (json,))


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


def _read_result(reply: Reply) -> InferResult:
    body = memoryview(reply.body)
    length = int(reply.headers.get(binary_tensors.HEADER_LENGTH.lower().encode(), len(body)))
    answer = _decode(reply, _Answer, body[:length])
    tensors: dict[str, NDArray[Any]] = {}
    position = length
    for output in answer.outputs:
        end = position + int(output.parameters["binary_data_size"])
        tensors[output.name] = binary_tensors.decode(
            body[position:end], output.name, output.datatype, output.shape
        )
        position = end
    return InferResult(tensors, answer.model_name, answer.model_version, answer.id, answer.parameters)


def _decode(reply: Reply, kind: type[T], json: memoryview | None = None, status: int = 200) -> T:
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


def _request(method: str, path: str, head: str = "", body: Sequence[bytes | memoryview] = ()) -> bytes:
    length = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in body)
    lines = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{head}\r\n"
    return b"".join((lines.encode(), *body))
