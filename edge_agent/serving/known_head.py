"""A shortcut for clients that send the same head again and again, as all do that infer in a loop.

After a run of a model the CPU's caches are cold, and the parser's callbacks for one request then take 100 µs;
to compare the bytes with those of the request before takes a few. The parser has judged the same bytes already,
and stands between two messages, so that it need not see them.
"""

from typing import Self

from edge_agent.serving.http_messages import Request

_END = b"\r\n\r\n"


class KnownHead:
    """The head of a request whose body, of a known length, came in the same piece of data."""

    __slots__ = ("_head", "_request", "_size_bytes")

    def __init__(self, head: bytes, size_bytes: int, request: Request) -> None:
        self._head = head
        self._size_bytes = size_bytes
        self._request = request

    @classmethod
    def learn(cls, data: bytes, request: Request) -> Self | None:
        """Return the head of this request, if the data are it and nothing else, and another may follow it."""
        head_size = len(data) - len(request.body)
        if (
            not request.body
            or not request.keep_alive
            or b"content-length" not in request.headers
            or data.find(_END) + len(_END) != head_size
        ):
            return None
        return cls(data[:head_size], len(data), request)

    def recognize(self, data: bytes) -> Request | None:
        """Return the request that the data are, if they are one with this head."""
        if len(data) != self._size_bytes or not data.startswith(self._head):
            return None
        known = self._request
        body = data[len(self._head) :]
        return Request(known.method, known.path, known.headers, body, True, known.is_http10)
