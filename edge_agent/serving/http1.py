"""HTTP/1.1 for local apps: an asyncio protocol around llhttp's parser.

Requests of one connection are answered one after the other, in order; each answer is one write. Reading stops
while requests wait or the reader of the answers is slow. A malformed request is answered with 400 and closes
its connection. Sources: RFC 9110, RFC 9112; https://github.com/MagicStack/httptools.
"""

import asyncio
from collections import deque
from typing import Final, cast

import httptools

from edge_agent.serving import http_rules
from edge_agent.serving.http_messages import Application, Limits, Request, Response, error_response, render_head
from edge_agent.serving.known_head import KnownHeads
from edge_agent.serving.peers import has_hung_up, stop_receiving

HEAD_LIMIT_BYTES: Final = 64 * 1024
LINGER_S: Final = 2.0
"""How long what a refused client still sends is read and dropped, so that it gets to read the refusal."""

_RAW_PER_BODY_BYTE: Final = 8
"""A chunk of one byte is six bytes long."""


class _Reply:
    """The answer that a connection waits for."""

    __slots__ = ("_connection", "_request", "is_abandoned")

    def __init__(self, connection: "Connection", request: Request) -> None:
        self._connection = connection
        self._request = request
        self.is_abandoned = False

    def send(self, response: Response) -> None:
        """Write the answer, unless the client has gone."""
        if not self.is_abandoned:
            self._connection.finish(self._request, response)


class Connection(asyncio.Protocol):
    """One client. `open_connections` is the server's set of those that are open; a drain goes through it."""

    def __init__(self, application: Application, limits: Limits, open_connections: "set[Connection]") -> None:
        self._application = application
        self._limits = limits
        self._open = open_connections
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._pending: _Reply | None = None
        self._refusal: Response | None = None
        self._known = KnownHeads()
        self._deadline_s = 0.0
        self._is_receiving = self._is_draining = self._is_lingering = False
        self._is_lost = self._is_paused = self._has_ended = False
        self._can_write = True
        self._parts: list[bytes] = []
        self._begin_message()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with an empty connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)
        self._set_deadline(self._limits.idle_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Withdraw what nobody will read; a run that has begun ends by itself."""
        self._is_lost = True
        self._waiting.clear()
        if self._pending is not None:
            self._pending.is_abandoned = True
        self._open.discard(self)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._refusal is not None or self._is_lingering:
            return
        if not self._is_receiving:
            request = self._known.recognize(data)
            if request is not None:
                self._waiting.append(request)
                self._answer_next()
                return
        self._parse(data)
        self._answer_next()

    def eof_received(self) -> bool:
        """Keep the transport until what was asked has been answered, if there is somebody to read it."""
        self._has_ended = True
        is_due = self._refusal is not None and not self._is_lingering
        return (self._pending is not None or bool(self._waiting) or is_due) and not has_hung_up(self._transport)

    def pause_writing(self) -> None:
        """Start no other answer before this client has read what there is."""
        self._can_write = False
        self._set_deadline(self._limits.idle_timeout_s)

    def resume_writing(self) -> None:
        """Go on."""
        self._can_write = True
        self._set_deadline(LINGER_S if self._is_lingering else self._limits.idle_timeout_s)
        self._answer_next()

    def drain(self) -> None:
        """Close after the next answer."""
        self._is_draining = True

    def close_if_idle(self) -> None:
        """End a drained connection that has nothing to answer, without losing a request."""
        if self._is_receiving or self._pending is not None or self._waiting or self._is_lost:
            return
        try:
            stop_receiving(self._transport)
        except OSError:
            self._transport.abort()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def check_deadline(self, now_s: float) -> None:
        """Close a connection that has been idle, half sent, unread or lingering for too long."""
        if now_s < self._deadline_s or (self._pending is not None and self._can_write):
            return
        if self._is_receiving and self._can_write and not self._is_lingering:
            self._refuse(408, f"The request took longer than {self._limits.request_timeout_s:g} s to arrive.")
            self._answer_next()
        else:
            self._transport.abort()

    def on_message_begin(self) -> None:
        """Start a request."""
        self._begin_message()
        self._is_receiving = True
        self._set_deadline(self._limits.request_timeout_s)

    def on_url(self, url: bytes) -> None:
        """Collect the target, which may come in pieces."""
        self._target += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; a trailer is only counted."""
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_LIMIT_BYTES:
            self._refuse_head()
        elif not self._has_head:
            name, value = name.lower(), value.rstrip(b" \t")
            # RFC 9110, 5.3: several lines of one name are one list.
            self._headers[name] = b", ".join((self._headers[name], value)) if name in self._headers else value

    def on_headers_complete(self) -> None:
        """Refuse early what can be refused without its body."""
        self._has_head = True
        if self._parser.should_upgrade() or self._parser.get_http_version() not in ("1.1", "1.0"):
            self._refuse(400, "This server speaks HTTP/1.1 only; send no Upgrade and no CONNECT.")
        elif self._head_bytes > HEAD_LIMIT_BYTES:
            self._refuse_head()
        elif (refusal := http_rules.refusal(self._headers, self._limits)) is not None:
            self._refuse_with(refusal)
        elif b"expect" in self._headers:
            self._owes_continue = self._headers[b"expect"].lower() == b"100-continue"

    def on_body(self, data: bytes) -> None:
        """Collect the body."""
        self._owes_continue = False
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.max_body_bytes:
            self._refuse_with(http_rules.too_large(self._limits))
        elif self._refusal is None:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        """Queue a whole request."""
        self._is_receiving = False
        self._owes_continue = False
        if self._refusal is not None:
            return
        try:
            path = (httptools.parse_url(self._target).path or b"/").decode()
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            self._refuse(400, "The request's target is not a valid URL.")
            return
        self._waiting.append(
            Request(
                method=self._parser.get_method().decode(),
                path=path,
                headers=self._headers,
                body=self._parts[0] if len(self._parts) == 1 else b"".join(self._parts),
                keep_alive=self._parser.should_keep_alive(),
                is_http10=self._parser.get_http_version() == "1.0",
            )
        )
        self._parts = []

    def _parse(self, data: bytes) -> None:
        was_receiving, headers, waiting = self._is_receiving, self._headers, len(self._waiting)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(400, "The request is not valid HTTP/1.1.")
        if self._is_receiving:
            if self._headers is headers:
                self._count_overhead(len(data))
        elif not was_receiving and len(self._waiting) == waiting + 1 and self._refusal is None:
            self._known.learn(data, self._waiting[-1])

    def _begin_message(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._parts = []
        self._head_bytes = self._body_bytes = self._raw_bytes = 0
        self._has_head = False
        self._owes_continue = False

    def _count_overhead(self, size_bytes: int) -> None:
        """Bound what the parser holds back or drops: a header without an end, the sizes of tiny chunks."""
        self._raw_bytes += size_bytes
        if self._raw_bytes - self._body_bytes * _RAW_PER_BODY_BYTE > HEAD_LIMIT_BYTES:
            self._refuse_head()

    def _refuse_head(self) -> None:
        self._refuse(431, f"The request's head is larger than {HEAD_LIMIT_BYTES} bytes.")

    def _refuse(self, status: int, message: str) -> None:
        self._refuse_with(error_response(status, message))

    def _refuse_with(self, refusal: Response) -> None:
        """Answer what came before, then this, then close; the first refusal of a connection stands."""
        if self._refusal is None:
            self._refusal = refusal
            self._parts = []

    def _answer_next(self) -> None:
        if self._pending is not None or not self._can_write or self._is_lingering or self._is_lost:
            return
        if self._waiting:
            self._answer(self._waiting.popleft())
        elif self._refusal is not None:
            self._write(self._refusal, must_close=True)
        elif self._has_ended:
            self._transport.close()
        elif self._owes_continue:
            self._owes_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._adjust_reading()

    def _answer(self, request: Request) -> None:
        self._pending = _Reply(self, request)
        self._application(request, self._pending)

    def finish(self, request: Request, response: Response) -> None:
        """Write the answer that was waited for; for its `_Reply` alone."""
        self._pending = None
        is_last = not self._waiting and not self._is_receiving and self._refusal is None
        must_close = not request.keep_alive or (is_last and (self._is_draining or self._has_ended))
        self._write(response, must_close, request)
        if self._waiting or self._refusal is not None:
            # By way of the loop, so that many requests in one packet do not keep other clients waiting.
            self._loop.call_soon(self._answer_next)
        else:
            self._adjust_reading()

    def _write(self, response: Response, must_close: bool, request: Request | None = None) -> None:
        head = render_head(response, must_close, request is not None and request.is_http10)
        body = () if request is not None and request.method == "HEAD" else response.body
        self._transport.write(b"".join((head, *body)))
        self._set_deadline(
            self._limits.request_timeout_s if self._is_receiving else self._limits.idle_timeout_s
        )
        if must_close:
            self._linger()

    def _linger(self) -> None:
        """Close once the peer has, or soon: closing on unread input could cost it the answer."""
        self._is_lingering = True
        self._waiting.clear()
        self._set_deadline(LINGER_S if self._can_write else self._limits.idle_timeout_s)
        if self._has_ended:
            self._transport.close()
        else:
            self._adjust_reading()
            self._transport.write_eof()

    def _adjust_reading(self) -> None:
        """Read while nothing waits and the answers are read; at the end always, to see the peer close."""
        wanted = self._is_lingering or (self._can_write and not self._waiting)
        if wanted == self._is_paused and not self._transport.is_closing():
            self._is_paused = not wanted
            (self._transport.resume_reading if wanted else self._transport.pause_reading)()

    def _set_deadline(self, after_s: float) -> None:
        self._deadline_s = self._loop.time() + after_s
