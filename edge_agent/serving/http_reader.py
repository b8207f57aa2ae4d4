"""The bytes of one connection, read as requests: llhttp's parser with bounds. No input or output of its own.

Sources: RFC 9110, RFC 9112; https://github.com/MagicStack/httptools.
"""

from collections import deque
from typing import Final

import httptools

from edge_agent.serving import http_rules
from edge_agent.serving.http_messages import Limits, Request, Response, error_response
from edge_agent.serving.intake import Intake
from edge_agent.serving.known_head import KnownHeads

HEAD_LIMIT_BYTES: Final = 64 * 1024

_RAW_PER_BODY_BYTE: Final = 8
"""A chunk of one byte is six bytes long."""


class RequestReader:
    """Collects requests; a malformed or oversized one becomes a refusal, after which nothing is read any more.

    `intake` is the server's account of what bodies take in memory.
    """

    def __init__(self, limits: Limits, intake: Intake) -> None:
        self._limits = limits
        self._intake = intake
        self._parser = httptools.HttpRequestParser(self)
        self._known = KnownHeads()
        self.requests: deque[Request] = deque()
        """Those that have come and were not taken yet."""
        self.refusal: Response | None = None
        """What to answer to the request that cannot be taken, after all before it."""
        self.begun = 0
        """How many requests have begun."""
        self.is_receiving = False
        self.owes_continue = False
        """Whether the client waits for leave to send its body."""
        self._taken_bytes = 0
        self._parts: list[bytes] = []
        self._begin()

    def feed(self, data: bytes) -> None:
        """Read what has come."""
        if self.refusal is not None:
            return
        if not self.is_receiving:
            request = self._known.recognize(data)
            if request is not None:
                if self._takes(len(data)):
                    self.requests.append(request)
                return
        self._parse(data)

    def refuse(self, status: int, message: str) -> None:
        """Take nothing more; the first refusal stands."""
        self._refuse_with(error_response(status, message))

    def forget_bodies(self) -> None:
        """Hear that all requests that were taken are answered, or that nobody waits for them."""
        if self._taken_bytes and not self.is_receiving:
            self._intake.give_back(self._taken_bytes)
            self._taken_bytes = 0

    def close(self) -> None:
        """Let go of everything."""
        self.is_receiving = False
        self.requests.clear()
        self._parts = []
        self.forget_bodies()

    # --- what the parser calls ----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start a request."""
        self._begin()
        self.begun += 1
        self.is_receiving = True

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
            self.refuse(400, "This server speaks HTTP/1.1 only; send no Upgrade and no CONNECT.")
        elif self._head_bytes > HEAD_LIMIT_BYTES:
            self._refuse_head()
        elif (refusal := http_rules.refusal(self._headers, self._limits)) is not None:
            self._refuse_with(refusal)
        elif b"expect" in self._headers:
            self.owes_continue = self._headers[b"expect"].lower() == b"100-continue"

    def on_body(self, data: bytes) -> None:
        """Collect the body."""
        self.owes_continue = False
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.max_body_bytes:
            self._refuse_with(http_rules.too_large(self._limits))
        elif self.refusal is None and self._takes(len(data)):
            self._parts.append(data)

    def on_message_complete(self) -> None:
        """Queue a whole request."""
        self.is_receiving = self.owes_continue = False
        if self.refusal is not None:
            return
        try:
            path = (httptools.parse_url(self._target).path or b"/").decode()
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            self.refuse(400, "The request's target is not a valid URL.")
            return
        self.requests.append(
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

    # --- the rest is private ------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        was_receiving, headers, waiting = self.is_receiving, self._headers, len(self.requests)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.refuse(400, "The request is not valid HTTP/1.1.")
        if self.is_receiving:
            if self._headers is headers:
                self._count_overhead(len(data))
        elif not was_receiving and len(self.requests) == waiting + 1 and self.refusal is None:
            self._known.learn(data, self.requests[-1])

    def _takes(self, size_bytes: int) -> bool:
        """Count a piece of a body; refuse the request if there is no memory for it."""
        if not self._intake.take(size_bytes):
            self._refuse_with(http_rules.too_many_bytes())
            return False
        self._taken_bytes += size_bytes
        return True

    def _begin(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._parts = []
        self._head_bytes = self._body_bytes = self._raw_bytes = 0
        self._has_head = self.owes_continue = False

    def _count_overhead(self, size_bytes: int) -> None:
        """Bound what the parser holds back or drops: a header without an end, the sizes of tiny chunks."""
        self._raw_bytes += size_bytes
        if self._raw_bytes - self._body_bytes * _RAW_PER_BODY_BYTE > HEAD_LIMIT_BYTES:
            self._refuse_head()

    def _refuse_head(self) -> None:
        self.refuse(431, f"The request's head is larger than {HEAD_LIMIT_BYTES} bytes.")

    def _refuse_with(self, refusal: Response) -> None:
        if self.refusal is None:
            self.refusal = refusal
            self._parts = []
