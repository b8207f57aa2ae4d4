"""The requests and answers of the HTTP server."""

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec

from edge_agent.documents.errors import EdgeAgentError, UnavailableError

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names are in lower case, the path is without its query."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool
    is_http10: bool


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; `body` is the parts that are sent one after the other."""

    status: int
    body: tuple[bytes | memoryview, ...]
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def error_response(status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Return the protocol's error body with a status."""
    return Response(status, (msgspec.json.encode({"error": message}),), headers=headers)


def failure(error: EdgeAgentError) -> Response:
    """Return the answer to a request that failed with this error."""
    headers: tuple[tuple[str, str], ...] = ()
    if isinstance(error, UnavailableError):
        headers = (("Retry-After", str(math.ceil(error.retry_after_s))),)
    return error_response(error.status, str(error), headers)


def render_head(response: Response, must_close: bool, is_http10: bool) -> bytes:
    """Return the status line and headers of an answer, up to its body."""
    lines = [
        f"HTTP/1.1 {response.status} {_PHRASES[response.status]}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {sum(map(_size_bytes, response.body))}",
    ]
    lines += [f"{name}: {value}" for name, value in response.headers]
    if must_close:
        lines.append("Connection: close")
    elif is_http10:
        lines.append("Connection: keep-alive")
    return "\r\n".join((*lines, "\r\n")).encode("latin-1")


def _size_bytes(part: bytes | memoryview) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)
