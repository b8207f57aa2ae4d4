"""The requests and answers of the HTTP server."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

import msgspec

from edge_agent.documents.errors import EdgeAgentError, UnavailableError

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request; header names are in lower case, the path is without its query."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool
    is_http10: bool
    raw: bytes | None = None
    """All of its bytes, where they are at hand."""


class Response(msgspec.Struct, frozen=True, gc=False):
    """One answer; `body` is the parts that are sent one after the other."""

    status: int
    body: tuple[bytes | memoryview, ...]
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    head: bytes = b""
    """What `render_head` makes of all this where the connection stays open, if that is known already."""


class Reply(Protocol):
    """Where the answer to one request goes."""

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""
        ...

    def send(self, response: Response) -> None:
        """Answer the request; to be called exactly once, on the event loop's thread."""
        ...

    def peer_uid(self) -> int | None:
        """Return the user who made the connection, as the kernel knows it; None over TCP."""
        ...


Application = Callable[[Request, Reply], None]
"""Answers a request, at once or later; never raises."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may do: see `HttpSettings`. `refuse_origins` turns browsers away."""

    max_connections: int
    max_body_bytes: int
    idle_timeout_s: float
    request_timeout_s: float
    refuse_origins: bool


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
    if response.head and not must_close and not is_http10:
        return response.head
    length = 0
    for part in response.body:
        length += part.nbytes if isinstance(part, memoryview) else len(part)
    head = (
        f"HTTP/1.1 {response.status} {_PHRASES[response.status]}\r\n"
        f"Content-Type: {response.content_type}\r\nContent-Length: {length}\r\n"
    )
    for name, value in response.headers:
        head += f"{name}: {value}\r\n"
    if must_close:
        head += "Connection: close\r\n"
    elif is_http10:
        head += "Connection: keep-alive\r\n"
    return f"{head}\r\n".encode("latin-1")
