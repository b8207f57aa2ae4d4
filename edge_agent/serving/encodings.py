"""Compressed bodies, both ways: gzip and deflate, as RFC 9110, 8.4.1, has them."""

import zlib
from typing import Final

from edge_agent.documents.errors import PayloadTooLargeError, RequestError, UnsupportedError
from edge_agent.serving.http_messages import Request, Response

SMALLEST_BYTES: Final = 1024
"""Answers below this are sent as they are: to compress them costs more than it saves."""

_LEVEL: Final = 1
_WINDOW: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_PIECE_BYTES: Final = 256 * 1024


def decoded(request: Request, max_bytes: int) -> bytes:
    """Return a request's body without its encoding.

    Raises UnsupportedError for an encoding that is not known, RequestError for a body that is not in it, and
    PayloadTooLargeError for one that becomes larger than `max_bytes`, of which no more is decompressed.
    """
    encoding = request.headers.get(b"content-encoding")
    if encoding is None or encoding.lower() == b"identity":
        return request.body
    name = encoding.decode("latin-1").lower()
    window = _WINDOW.get(name)
    if window is None:
        raise UnsupportedError(f"Content-Encoding '{name}' is not supported; send gzip, deflate or neither.")
    try:
        return _inflated(request.body, window, max_bytes)
    except zlib.error as error:
        raise RequestError(f"The body is not {name}: {error}.") from error


def _inflated(body: bytes, window: int, max_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(window)
    parts, size, rest = [], 0, body
    while rest and not decompressor.eof:
        part = decompressor.decompress(rest, _PIECE_BYTES)
        size += len(part)
        if size > max_bytes:
            raise PayloadTooLargeError(
                f"The request's body is larger than {max_bytes} bytes; send less, or raise http.max_body_bytes."
            )
        parts.append(part)
        rest = decompressor.unconsumed_tail
    if not decompressor.eof or decompressor.unused_data:
        raise zlib.error("it ends too early or too late")
    return b"".join(parts)


def accepted(header: bytes | None) -> str | None:
    """Return the encoding that an answer may have by the header Accept-Encoding: gzip, deflate, or None."""
    if header is None:
        return None
    wanted = {}
    for entry in header.decode("latin-1").lower().split(","):
        name, _, weight = entry.partition(";")
        wanted[name.strip()] = not weight.replace(" ", "").startswith("q=0") or weight.strip("q=0. ") != ""
    return next((name for name in ("gzip", "deflate") if wanted.get(name)), None)


def encoded(response: Response, encoding: str) -> Response:
    """Return an answer in this encoding, or as it is where it is small."""
    body = b"".join(response.body)
    if len(body) < SMALLEST_BYTES:
        return response
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[encoding])
    compressed = compressor.compress(body) + compressor.flush()
    headers = (*response.headers, ("Content-Encoding", encoding), ("Vary", "Accept-Encoding"))
    return Response(response.status, (compressed,), response.content_type, headers)
