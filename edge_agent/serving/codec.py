"""Compressed bodies in and out, large ones on a thread of their own, which keeps the event loop free."""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from edge_agent.documents.errors import EdgeAgentError
from edge_agent.serving import encodings
from edge_agent.serving.http_messages import Reply, Request, Response
from edge_agent.serving.workers import Workers

_SMALL_REQUEST_BYTES: Final = 4 * 1024
"""Decompressed at once: it becomes a thousand times as large at most, in a few milliseconds."""
_SMALL_ANSWER_BYTES: Final = 64 * 1024


class Codec:
    """Decompresses requests, up to `max_bytes`, and compresses answers. For the event loop's thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._workers = Workers(1, "codec")

    def plain(
        self, request: Request, then: Callable[[Request], None], fail: Callable[[Exception], None]
    ) -> None:
        """Call `then` with the request without its encoding, now or later; or `fail` with the error."""
        if b"content-encoding" not in request.headers:
            then(request)
        elif len(request.body) <= _SMALL_REQUEST_BYTES:
            then(self._decoded(request))
        else:
            self._workers.submit(self._decode, (request, then, fail))

    def send(self, reply: Reply, response: Response, header: bytes) -> None:
        """Send an answer in an encoding that the header Accept-Encoding takes, or as it is."""
        encoding = encodings.accepted(header)
        if encoding is None:
            reply.send(response)
        elif sum(map(len, response.body)) <= _SMALL_ANSWER_BYTES:
            reply.send(encodings.encoded(response, encoding))
        else:
            self._workers.submit(self._encode, (reply, response, encoding))

    def _decoded(self, request: Request) -> Request:
        body = encodings.decoded(request, self._max_bytes)
        return msgspec.structs.replace(request, body=body, raw=None)

    # --- on the thread ----------------------------------------------------------------------------------------

    def _decode(self, work: tuple[Request, Callable[[Request], None], Callable[[Exception], None]]) -> None:
        request, then, fail = work
        try:
            plain = self._decoded(request)
        except (EdgeAgentError, MemoryError) as error:
            self._loop.call_soon_threadsafe(fail, error)
        else:
            self._loop.call_soon_threadsafe(then, plain)

    def _encode(self, work: tuple[Reply, Response, str]) -> None:
        reply, response, encoding = work
        self._loop.call_soon_threadsafe(reply.send, encodings.encoded(response, encoding))
