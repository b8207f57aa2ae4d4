"""The paths of the shared memory extension.

Source: Triton Inference Server, protocol/extension_shared_memory.md.
"""

from typing import Any, Final
from urllib.parse import unquote

import msgspec

from edge_agent.documents.errors import NotFoundError, RequestError
from edge_agent.serving.http_messages import Reply, Request, Response, error_response
from edge_agent.serving.shared_memory import Regions

PREFIX: Final = "/v2/systemsharedmemory/"
CUDA_PREFIX: Final = "/v2/cudasharedmemory/"


class _Register(msgspec.Struct):
    key: str
    byte_size: int
    offset: int = 0


def answer(regions: Regions, request: Request, reply: Reply) -> Response:
    """Answer a request to one of the paths; raises RequestError for one that cannot be done."""
    if request.path.startswith(CUDA_PREFIX):
        raise RequestError("CUDA shared memory is not served; use system shared memory, or send the tensors.")
    name, verb = _parts(request)
    wanted = "GET" if verb == "status" else "POST"
    if request.method not in (wanted, "HEAD" if verb == "status" else wanted):
        return error_response(405, f"{request.path} answers {wanted} only.", (("Allow", wanted),))
    uid = reply.peer_uid()
    if verb == "status":
        return _json(regions.status(uid, name))
    if verb == "unregister":
        regions.unregister(uid, name)
    else:
        given = _read(request.body)
        regions.register(uid, name or "", given.key, given.offset, given.byte_size)
    return _json({})


def _parts(request: Request) -> tuple[str | None, str]:
    match request.path.removeprefix(PREFIX).rstrip("/").split("/"):
        case ["region", name, ("status" | "register" | "unregister") as verb]:
            return unquote(name), verb
        case [("status" | "unregister") as verb]:
            return None, verb
    raise NotFoundError(f"There is nothing at {request.path}; regions have status, register and unregister.")


def _read(body: bytes) -> _Register:
    try:
        return msgspec.json.decode(body, type=_Register)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(
            f"A region is registered with key, offset and byte_size: {str(error).rstrip('.')}."
        ) from error


def _json(content: Any) -> Response:
    return Response(200, (msgspec.json.encode(content),))
