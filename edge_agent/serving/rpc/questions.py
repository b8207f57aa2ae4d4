"""The calls other than inference, as questions to the paths of the HTTP protocol.

So a call answers what its path does and is refused where that refuses, whatever becomes of either.

Source: Triton Inference Server, grpc_service.proto and protocol/extension_*.md, which describe both forms.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from edge_agent.serving.rpc import messages


class Question(msgspec.Struct, frozen=True):
    """What a path is asked: its method, itself, and what is sent as JSON unless that is None."""

    method: str
    path: str
    content: Any = None


class Asked(msgspec.Struct, frozen=True):
    """A call: how its request becomes a question, and the answer of the path its response.

    `fold` gives a document the names of the response; `unless`, for calls that say whether something is so, is
    the response to a refusal, which is no error then.
    """

    request: type[Message] | None
    ask: Callable[[Any], Question]
    response: type[Message]
    fold: Callable[[Any], dict[str, Any]] = lambda document: document
    unless: Message | None = None


def read(asked: Asked, content: bytes) -> Question:
    """Return the question that a request is; raises DecodeError for bytes that are no such request."""
    return asked.ask(None if asked.request is None else asked.request.FromString(content))


def respond(asked: Asked, document: Any) -> Message:
    """Return the response that the answer of a path is; what it has and the messages have not is left out."""
    return ParseDict(asked.fold(document), asked.response(), ignore_unknown_fields=True)


def _model(name: str, version: str, rest: str = "") -> str:
    path = f"/v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}{rest}" if version else f"{path}{rest}"


def _statistics(request: messages.ModelStatisticsRequest) -> Question:
    # A version of no model is refused as an unknown path is.
    path = _model(request.name, request.version, "/stats") if request.name or request.version else ""
    return Question("GET", path or "/v2/models/stats")


def _control(verb: str) -> Callable[[Any], Question]:
    def ask(request: messages.RepositoryModelLoadRequest) -> Question:
        given: Mapping[str, Any] = request.parameters
        parameters = {name: _value(parameter) for name, parameter in given.items()}
        path = f"/v2/repository/models/{quote(request.model_name, safe='')}/{verb}"
        return Question("POST", path, {"parameters": parameters})

    return ask


def _value(parameter: messages.ModelRepositoryParameter) -> Any:
    # As JSON has it, where bytes are Base64.
    (value,) = MessageToDict(parameter).values() or (None,)
    kind = parameter.WhichOneof("parameter_choice")
    return value if kind in (None, "bytes_param") else getattr(parameter, kind)


def _region(verb: str) -> Callable[[Any], str]:
    def path(request: messages.SystemSharedMemoryStatusRequest) -> str:
        region = f"/region/{quote(request.name, safe='')}" if request.name else ""
        return f"/v2/systemsharedmemory{region}/{verb}"

    return path


def _register(request: messages.SystemSharedMemoryRegisterRequest) -> Question:
    content = {"key": request.key, "offset": request.offset, "byte_size": request.byte_size}
    path = f"/v2/systemsharedmemory/region/{quote(request.name, safe='')}/register"
    return Question("POST", path, content)


def _nothing(document: Any) -> dict[str, Any]:
    return {}


ASKED: Final[Mapping[str, Asked]] = {
    "ServerLive": Asked(
        None,
        lambda _: Question("GET", "/v2/health/live"),
        messages.ServerLiveResponse,
        lambda _: {"live": True},
        messages.ServerLiveResponse(),
    ),
    "ServerReady": Asked(
        None,
        lambda _: Question("GET", "/v2/health/ready"),
        messages.ServerReadyResponse,
        lambda _: {"ready": True},
        messages.ServerReadyResponse(),
    ),
    "ModelReady": Asked(
        messages.ModelReadyRequest,
        lambda request: Question("GET", _model(request.name, request.version, "/ready")),
        messages.ModelReadyResponse,
        lambda _: {"ready": True},
        messages.ModelReadyResponse(),
    ),
    "ServerMetadata": Asked(None, lambda _: Question("GET", "/v2"), messages.ServerMetadataResponse),
    "ModelMetadata": Asked(
        messages.ModelMetadataRequest,
        lambda request: Question("GET", _model(request.name, request.version)),
        messages.ModelMetadataResponse,
    ),
    "ModelConfig": Asked(
        messages.ModelConfigRequest,
        lambda request: Question("GET", _model(request.name, request.version, "/config")),
        messages.ModelConfigResponse,
        lambda document: {"config": document},
    ),
    "ModelStatistics": Asked(messages.ModelStatisticsRequest, _statistics, messages.ModelStatisticsResponse),
    "RepositoryIndex": Asked(
        messages.RepositoryIndexRequest,
        lambda request: Question("POST", "/v2/repository/index", {"ready": request.ready}),
        messages.RepositoryIndexResponse,
        lambda document: {"models": document},
    ),
    "RepositoryModelLoad": Asked(
        messages.RepositoryModelLoadRequest, _control("load"), messages.RepositoryModelLoadResponse, _nothing
    ),
    "RepositoryModelUnload": Asked(
        messages.RepositoryModelUnloadRequest,
        _control("unload"),
        messages.RepositoryModelUnloadResponse,
        _nothing,
    ),
    "SystemSharedMemoryStatus": Asked(
        messages.SystemSharedMemoryStatusRequest,
        lambda request: Question("GET", _region("status")(request)),
        messages.SystemSharedMemoryStatusResponse,
        lambda document: {"regions": {region["name"]: region for region in document}},
    ),
    "SystemSharedMemoryRegister": Asked(
        messages.SystemSharedMemoryRegisterRequest,
        _register,
        messages.SystemSharedMemoryRegisterResponse,
        _nothing,
    ),
    "SystemSharedMemoryUnregister": Asked(
        messages.SystemSharedMemoryUnregisterRequest,
        lambda request: Question("POST", _region("unregister")(request)),
        messages.SystemSharedMemoryUnregisterResponse,
        _nothing,
    ),
}

UNSERVED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
        "CUDA shared memory is not served; register system shared memory, or send the tensors.",
    ),
    "TraceSetting": "Trace settings are not served; the statistics and metrics say what requests took.",
    "LogSettings": "Log settings are not served; set log.level in the agent's settings.",
}
"""The calls of Triton's service that are not served, and what is said instead."""
