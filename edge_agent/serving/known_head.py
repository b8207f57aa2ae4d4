"""A shortcut for clients that send the same heads again and again, as all do that infer in a loop.

After a run of a model the CPU's caches are cold, and the parser's callbacks for one request then take 100 µs;
to compare the bytes with those of the request before takes a few. The parser has judged the same bytes already,
and stands between two messages, so that it need not see them.
"""

import msgspec

from edge_agent.serving.http_messages import Request

_END = b"\r\n\r\n"
_KEPT = 8
"""Heads differ by the length that they give: a client that sends a few sizes in turn has as many heads."""
_LONGEST_HEAD_BYTES = 4096


class KnownHeads:
    """The heads of one connection's requests whose body, of a known length, came in the same piece of data."""

    __slots__ = ("_by_size",)

    def __init__(self) -> None:
        self._by_size: dict[int, tuple[bytes, Request]] = {}

    def learn(self, data: bytes, request: Request) -> None:
        """Remember the head of this request, if the data are it and nothing else, and another may follow it."""
        head_size = len(data) - len(request.body)
        if (
            not request.body
            or not request.keep_alive
            or head_size > _LONGEST_HEAD_BYTES
            or b"content-length" not in request.headers
            or data.find(_END) + len(_END) != head_size
        ):
            return
        if len(self._by_size) >= _KEPT:
            self._by_size.pop(next(iter(self._by_size)))
        self._by_size[len(data)] = (data[:head_size], msgspec.structs.replace(request, body=b""))

    def recognize(self, data: bytes) -> Request | None:
        """Return the request that the data are, if they are one with a known head."""
        known = self._by_size.get(len(data))
        if known is None or not data.startswith(known[0]):
            return None
        head, first = known
        return Request(first.method, first.path, first.headers, data[len(head) :], True, first.is_http10, data)
