"""Compressed bodies: what went in comes out, bounded, and nothing else is taken for it."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.errors import PayloadTooLargeError, RequestError, UnsupportedError
from edge_agent.serving.encodings import SMALLEST_BYTES, accepted, decoded, encoded
from edge_agent.serving.http_messages import Request, Response

COMPRESS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}


def request(body: bytes, encoding: str | None) -> Request:
    headers = {} if encoding is None else {b"content-encoding": encoding.encode()}
    return Request("POST", "/", headers, body, keep_alive=True, is_http10=False)


@given(st.binary(max_size=2000), st.sampled_from(sorted(COMPRESS)), st.integers(1, 50))
def test_what_was_compressed_comes_out(content: bytes, encoding: str, times: int) -> None:
    whole = content * times
    assert decoded(request(COMPRESS[encoding](whole), encoding.upper()), len(whole)) == whole


def test_a_plain_body_stays_as_it_is() -> None:
    assert decoded(request(b"x", None), 0) == decoded(request(b"x", "identity"), 0) == b"x"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_no_more_than_allowed_is_decompressed(encoding: str) -> None:
    with pytest.raises(PayloadTooLargeError, match="larger than 1000 bytes"):
        decoded(request(COMPRESS[encoding](bytes(10**8)), encoding), 1000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    "spoil", [lambda body: body[:-1], lambda body: body + b"x", lambda body: b"x" + body, lambda _: b""]
)
def test_what_is_not_compressed_so_is_refused(encoding: str, spoil: object) -> None:
    body = spoil(COMPRESS[encoding](b"hello" * 100))  # type: ignore[operator]
    with pytest.raises(RequestError, match=f"The body is not {encoding}"):
        decoded(request(body, encoding), 10**6)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_garbage_is_only_ever_refused(content: bytes, encoding: str) -> None:
    with pytest.raises(RequestError):
        decoded(request(content, encoding), 100)


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(UnsupportedError, match="'br' is not supported; send gzip, deflate or neither"):
        decoded(request(b"", "br"), 10)


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        (None, None),
        (b"", None),
        (b"gzip", "gzip"),
        (b"GZIP", "gzip"),
        (b"deflate, gzip;q=0.5", "gzip"),
        (b"br, deflate", "deflate"),
        (b"gzip;q=0, deflate", "deflate"),
        (b"gzip; q=0.0", None),
        (b"*", None),
        (b"identity", None),
    ],
)
def test_an_answer_has_an_encoding_that_the_client_takes(header: bytes | None, encoding: str | None) -> None:
    assert accepted(header) == encoding


def test_an_answer_is_compressed_where_that_pays() -> None:
    small, large = Response(200, (b"x",)), Response(200, (b"x" * SMALLEST_BYTES, b"yz"), headers=(("A", "b"),))
    assert encoded(small, "gzip") is small
    answer = encoded(large, "gzip")
    assert gzip.decompress(answer.body[0]) == b"x" * SMALLEST_BYTES + b"yz"
    assert answer.headers == (("A", "b"), ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
    assert zlib.decompress(encoded(large, "deflate").body[0]) == b"x" * SMALLEST_BYTES + b"yz"
