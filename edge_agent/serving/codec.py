"""Compressed bodies in and out, large ones on a thread of their own, which keeps the event loop free."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from edge_agent.documents.errors import UnavailableError
from edge_agent.serving import encodings
from edge_agent.serving.http_messages import Reply, Request, Response
from edge_agent.serving.http_rules import TOO_MANY_BYTES
from edge_agent.serving.workers import Workers

log = logging.getLogger(__name__)

_SMALL_REQUEST_BYTES: Final = 4 * 1024
"""Decompressed at once: it becomes a thousand times as large at most, in a few milliseconds."""
_SMALL_ANSWER_BYTES: Final = 8 * 1024
"""Compressed at once: to hand it to the thread and back takes as long."""


class _Decoding(msgspec.Struct, frozen=True, eq=False):
    """A request that is decompressed; one of `then` and `fail` is called, unless nobody waits any more."""

    request: Request
    reply: Reply
    then: Callable[[Request], None]
    fail: Callable[[Exception], None]


class Codec:
    """Decompresses requests, up to `max_bytes`, and compresses answers. For the event loop's thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._workers = Workers(1, "codec")

    def plain(
        self,
        request: Request,
        reply: Reply,
        then: Callable[[Request], None],
        fail: Callable[[Exception], None],
    ) -> None:
        """Call `then` with the request without its encoding, now or later; or `fail` with the error."""
        decoding = _Decoding(request, reply, then, fail)
        if len(request.body) <= _SMALL_REQUEST_BYTES:
            self._hand_over(decoding, self._decoded(request))
        else:
            self._workers.submit(self._decode, decoding)

    def send(self, reply: Reply, response: Response, header: bytes) -> None:
        """Send an answer in an encoding that the header Accept-Encoding takes, or as it is."""
        encoding = encodings.accepted(header)
        if encoding is None:
            reply.send(response)
        elif sum(map(len, response.body)) <= _SMALL_ANSWER_BYTES:
            reply.send(encodings.encoded(response, encoding))
        else:
            self._workers.submit(self._encode, (reply, response, encoding))

    def _hand_over(self, decoding: _Decoding, plain: Request | Exception) -> None:
        if decoding.reply.is_abandoned:
            return
        if isinstance(plain, Exception):
            decoding.fail(plain)
        elif not decoding.reply.reserve(len(plain.body)):
            decoding.fail(UnavailableError(TOO_MANY_BYTES))
        else:
            decoding.then(plain)

    # --- on either thread -------------------------------------------------------------------------------------

    def _decoded(self, request: Request) -> Request | Exception:
        try:
            body = encodings.decoded(request, self._max_bytes)
        # No memory, or what zlib has to say: the thread must live on, and the client be answered.
        except Exception as error:
            return error
        return msgspec.structs.replace(request, body=body, raw=None)

    # --- on the codec's thread --------------------------------------------------------------------------------

    def _decode(self, decoding: _Decoding) -> None:
        self._loop.call_soon_threadsafe(self._hand_over, decoding, self._decoded(decoding.request))

    def _encode(self, work: tuple[Reply, Response, str]) -> None:
        reply, response, encoding = work
        try:
            response = encodings.encoded(response, encoding)
        except MemoryError as error:
            log.warning("An answer is sent without %s: %r", encoding, error)
        self._loop.call_soon_threadsafe(reply.send, response)
