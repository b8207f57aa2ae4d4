import http.client
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.errors import OperatorError
from edge_fleet.static_server import Span, StaticServer, choose_span, locate, matches

CONTENT = bytes(range(200))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StaticServer]:
    folder = tmp_path_factory.mktemp("outer")
    (folder / "secret.pem").write_text("secret")
    store = folder / "store"
    (store / "metadata").mkdir(parents=True)
    (store / "metadata/timestamp.json").write_text("{}")
    (store / "metadata/1.root.json").write_text("{}")
    (store / "blob").write_bytes(CONTENT)
    (store / ".lock").touch()
    (store / "way-out").symlink_to(folder / "secret.pem")
    server = StaticServer(store, "127.0.0.1", 0, lambda line: None)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="static server", daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def client(server: StaticServer) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    yield client
    client.close()


def ask(
    client: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    client.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = client.getresponse()
    return response.status, response.read(), response.headers


def test_a_file_and_its_head(client: http.client.HTTPConnection) -> None:
    status, body, headers = ask(client, "/blob")
    assert (status, body, headers["Content-Length"]) == (200, CONTENT, "200")
    status, body, headers = ask(client, "/blob", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "200")


def test_only_the_timestamp_is_not_kept_by_caches(client: http.client.HTTPConnection) -> None:
    assert ask(client, "/metadata/timestamp.json")[2]["Cache-Control"] == "no-cache"
    assert "immutable" in ask(client, "/metadata/1.root.json")[2]["Cache-Control"]


def test_an_unchanged_file_is_not_sent_again(client: http.client.HTTPConnection, server: StaticServer) -> None:
    path = server.folder / "metadata/timestamp.json"
    etag = ask(client, "/metadata/timestamp.json")[2]["ETag"]
    assert ask(client, "/metadata/timestamp.json", If_None_Match=etag)[:2] == (304, b"")
    path.write_text("[]")
    assert ask(client, "/metadata/timestamp.json", If_None_Match=etag)[:2] == (200, b"[]")


@pytest.mark.parametrize(
    ("wanted", "status", "body"),
    [
        ("bytes=50-", 206, CONTENT[50:]),
        ("bytes=50-59", 206, CONTENT[50:60]),
        ("bytes=-10", 206, CONTENT[190:]),
        ("bytes=150-999", 206, CONTENT[150:]),
        ("bytes=0-", 200, CONTENT),
        ("bytes=200-", 416, b""),
        ("bytes=1-2,4-5", 200, CONTENT),
        ("lines=1-2", 200, CONTENT),
    ],
)
def test_ranges(client: http.client.HTTPConnection, wanted: str, status: int, body: bytes) -> None:
    assert ask(client, "/blob", Range=wanted)[:2] == (status, body)


def test_a_range_of_another_version_is_the_whole(client: http.client.HTTPConnection) -> None:
    assert ask(client, "/blob", Range="bytes=50-", If_Range='"other"')[:2] == (200, CONTENT)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metadata",
        "/none",
        "/../secret.pem",
        "/%2e%2e/secret.pem",
        "/metadata/..%2f..%2fsecret.pem",
        "//secret.pem",
        "/.lock",
        "/way-out",
        "/blob%00",
        "/" + "x" * 5000,
    ],
)
def test_nothing_outside_and_nothing_hidden(client: http.client.HTTPConnection, path: str) -> None:
    status, body, _ = ask(client, path)
    assert (status, body) == (404, b"")


def test_other_methods_are_refused(client: http.client.HTTPConnection) -> None:
    assert ask(client, "/blob", "DELETE")[0] == 501


def test_a_port_in_use_is_told(server: StaticServer) -> None:
    with pytest.raises(OperatorError, match="choose another --port"):
        StaticServer(server.folder, "127.0.0.1", server.server_port, lambda line: None)


@given(st.text(max_size=30), st.integers(0, 1000))
def test_any_range_header_gives_bytes_of_the_file(wanted: str, size_bytes: int) -> None:
    span = choose_span(wanted, size_bytes)
    assert span is None or 0 <= span.start <= span.end <= size_bytes


@given(st.integers(0, 10**30), st.integers(0, 10**30), st.integers(1, 1000))
def test_a_valid_range_is_cut_to_the_file(first: int, last: int, size_bytes: int) -> None:
    span = choose_span(f"bytes={first}-{last}", size_bytes)
    expected = range(size_bytes)[first : last + 1]
    assert span == (Span(expected.start, expected.stop) if expected else None)


@given(st.text())
def test_no_target_leads_out(tmp_path_factory: pytest.TempPathFactory, target: str) -> None:
    folder = tmp_path_factory.getbasetemp().resolve()
    path = locate(folder, target)
    assert path is None or path.is_relative_to(folder)


@pytest.mark.parametrize(
    ("header", "result"),
    [(None, False), ('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False)],
)
def test_tags(header: str | None, result: bool) -> None:
    assert matches(header, '"a"') is result
