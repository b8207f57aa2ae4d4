"""Compressed requests and answers of a real serving process."""

import gzip
import http.client
import json
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import HttpSettings
from support.serving import ServingProcess, identity_onnx, version_plan

PATH = "/v2/models/m/infer"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    """`m` gives back FP32 [n, 2]; a body may have 2 MiB, all bodies together 1 MiB."""
    folder = tmp_path_factory.mktemp("encodings")
    settings = HttpSettings(max_body_bytes=2**21, max_bodies_bytes=2**20)
    with ServingProcess(folder / "s", settings) as process:
        assert isinstance(process.apply(version_plan(identity_onnx(folder / "m.onnx"))), Applied)
        yield process


@pytest.fixture
def connection(serving: ServingProcess) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(*serving.tcp, timeout=20)
    yield connection
    connection.close()


def binary(rows: int) -> tuple[bytes, dict[str, str]]:
    content = bytes(rows * 8)
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 2], "parameters": {"binary_data_size": rows * 8}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + content, {LENGTH: str(len(head))}


def ask(
    connection: http.client.HTTPConnection, body: bytes, headers: dict[str, str]
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection.request("POST", PATH, body, headers)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


@pytest.mark.parametrize(
    ("encoding", "compress", "expand"),
    [("gzip", gzip.compress, gzip.decompress), ("deflate", zlib.compress, zlib.decompress)],
)
@pytest.mark.parametrize("rows", [200, 50_000])
def test_lengths_are_those_of_the_plain_json(
    connection: http.client.HTTPConnection, encoding: str, compress: object, expand: object, rows: int
) -> None:
    body, headers = binary(rows)
    headers |= {"Content-Encoding": encoding, "Accept-Encoding": encoding}
    status, told, content = ask(connection, compress(body), headers)  # type: ignore[operator]
    assert (status, told["Content-Encoding"], told["Vary"]) == (200, encoding, "Accept-Encoding")
    plain, length = expand(content), int(told[LENGTH])  # type: ignore[operator]
    assert json.loads(plain[:length])["outputs"][0]["shape"] == [rows, 2]
    assert plain[length:] == bytes(rows * 8)


def test_an_answer_that_would_hardly_shrink_is_sent_as_it_is(connection: http.client.HTTPConnection) -> None:
    body, headers = binary(5000)
    noise = np.random.default_rng(0).random((5000, 2), np.float32).tobytes()
    body = body[: int(headers[LENGTH])] + noise
    status, told, content = ask(connection, body, headers | {"Accept-Encoding": "gzip, deflate"})
    assert (status, told["Content-Encoding"]) == (200, None)
    assert content[int(told[LENGTH]) :] == noise


def test_what_requests_become_counts_as_their_bodies(connection: http.client.HTTPConnection) -> None:
    for rows, wanted in ((140_000, 503), (10, 200), (100_000, 200)):
        body, headers = binary(rows)
        for _ in range(4):
            status, told, content = ask(connection, gzip.compress(body), headers | {"Content-Encoding": "gzip"})
            assert status == wanted
            if wanted == 503:
                assert told["Retry-After"] == "1"
                assert "together are too large" in json.loads(content)["error"]


def test_a_refused_encoding_leaves_the_connection_as_it_was(connection: http.client.HTTPConnection) -> None:
    body, headers = binary(10)
    status, _, content = ask(connection, body, headers | {"Content-Encoding": "br"})
    assert (status, "send gzip, deflate or neither" in json.loads(content)["error"]) == (415, True)
    for spoiled in (b"no gzip", b"no gzip" * 10_000, gzip.compress(body)[:-1], gzip.compress(bytes(2**22))):
        status, _, content = ask(connection, spoiled, headers | {"Content-Encoding": "gzip"})
        assert status in (400, 413)
        assert json.loads(content)["error"].endswith(".")
    assert ask(connection, body, headers)[0] == 200
