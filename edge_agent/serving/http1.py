"""HTTP/1.1 for local apps: one connection as an asyncio protocol.

Requests of one connection are answered one after the other, in order; each answer is one write. Reading stops
while requests wait or the reader of the answers is slow. A malformed request is answered with 400 and closes
its connection. Sources: RFC 9110, RFC 9112.
"""

import asyncio
from typing import Final, cast

from edge_agent.serving import http_rules
from edge_agent.serving.http_messages import Application, Limits, Request, Response, render_head
from edge_agent.serving.http_reader import RequestReader
from edge_agent.serving.intake import Intake
from edge_agent.serving.peers import has_hung_up, peer_uid, stop_receiving

LINGER_S: Final = 2.0
"""How long what a refused client still sends is read and dropped, so that it gets to read the refusal."""

_OVERFLOW: Final = 64
"""Connections beyond the limit that are told so; more are closed without a word."""


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

    def peer_uid(self) -> int | None:
        """Return the user at the other end, None over TCP."""
        return self._connection.peer_uid()


class Connection(asyncio.Protocol):
    """One client. `open_connections` is the server's set of those that are open; a drain goes through it."""

    def __init__(
        self,
        application: Application,
        limits: Limits,
        open_connections: "set[Connection]",
        intake: Intake,
    ) -> None:
        self._application = application
        self._limits = limits
        self._open = open_connections
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader(limits, intake)
        self._pending: _Reply | None = None
        self._deadline_s = 0.0
        self._is_draining = self._is_lingering = False
        self._is_lost = self._is_paused = self._has_ended = False
        self._can_write = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with an empty connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)
        self._set_deadline(self._limits.idle_timeout_s)
        excess = len(self._open) - self._limits.max_connections
        if excess > _OVERFLOW:
            self._transport.abort()
        elif excess > 0:
            self._write(http_rules.too_many_connections(), must_close=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Withdraw what nobody will read; a run that has begun ends by itself."""
        self._is_lost = True
        self._reader.close()
        if self._pending is not None:
            self._pending.is_abandoned = True
        self._open.discard(self)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._is_lingering:
            return
        reader = self._reader
        begun = reader.begun
        reader.feed(data)
        if reader.begun != begun:
            self._set_deadline(self._limits.request_timeout_s)
        self._answer_next()

    def eof_received(self) -> bool:
        """Keep the transport until what was asked has been answered, if there is somebody to read it."""
        self._has_ended = True
        is_due = bool(self._reader.requests) or (self._reader.refusal is not None and not self._is_lingering)
        return (self._pending is not None or is_due) and not has_hung_up(self._transport)

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
        if self._reader.is_receiving or self._pending is not None or self._reader.requests or self._is_lost:
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
        if self._reader.is_receiving and self._can_write and not self._is_lingering:
            self._reader.refuse(
                408, f"The request took longer than {self._limits.request_timeout_s:g} s to arrive."
            )
            self._answer_next()
        else:
            self._transport.abort()

    def _answer_next(self) -> None:
        if self._pending is not None or not self._can_write or self._is_lingering or self._is_lost:
            return
        reader = self._reader
        if reader.requests:
            self._answer(reader.requests.popleft())
        elif reader.refusal is not None:
            self._write(reader.refusal, must_close=True)
        elif self._has_ended:
            self._transport.close()
        elif reader.owes_continue:
            reader.owes_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._adjust_reading()

    def _answer(self, request: Request) -> None:
        self._pending = _Reply(self, request)
        self._application(request, self._pending)

    def peer_uid(self) -> int | None:
        """Return the user at the other end, None over TCP."""
        return peer_uid(self._transport)

    def finish(self, request: Request, response: Response) -> None:
        """Write the answer that was waited for; for its `_Reply` alone."""
        self._pending = None
        reader = self._reader
        has_more = bool(reader.requests) or reader.refusal is not None
        is_last = not has_more and not reader.is_receiving
        must_close = not request.keep_alive or (is_last and (self._is_draining or self._has_ended))
        self._write(response, must_close, request)
        if has_more:
            # By way of the loop, so that many requests in one packet do not keep other clients waiting.
            self._loop.call_soon(self._answer_next)
        else:
            reader.forget_bodies()
            self._adjust_reading()

    def _write(self, response: Response, must_close: bool, request: Request | None = None) -> None:
        head = render_head(response, must_close, request is not None and request.is_http10)
        body = () if request is not None and request.method == "HEAD" else response.body
        self._transport.write(b"".join((head, *body)))
        self._set_deadline(
            self._limits.request_timeout_s if self._reader.is_receiving else self._limits.idle_timeout_s
        )
        if must_close:
            self._linger()

    def _linger(self) -> None:
        """Close once the peer has, or soon: closing on unread input could cost it the answer."""
        self._is_lingering = True
        self._reader.close()
        self._set_deadline(LINGER_S if self._can_write else self._limits.idle_timeout_s)
        if self._has_ended:
            self._transport.close()
        else:
            self._adjust_reading()
            self._transport.write_eof()

    def _adjust_reading(self) -> None:
        """Read while nothing waits and the answers are read; at the end always, to see the peer close."""
        wanted = self._is_lingering or (self._can_write and not self._reader.requests)
        if wanted == self._is_paused and not self._transport.is_closing():
            self._is_paused = not wanted
            (self._transport.resume_reading if wanted else self._transport.pause_reading)()

    def _set_deadline(self, after_s: float) -> None:
        self._deadline_s = self._loop.time() + after_s
