"""What a web server and a link can do to a download: survived, told, and put right by the next look."""

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_agent.documents.errors import ArtifactError, StoreUnreachableError
from edge_fleet.publish import publish, read_package
from support.agent import wait_until
from support.bad_store import Handler, Mischief, Server
from support.tiny_fleet import Device, Fleet, build_package

SIZE = 1_000_000
PAGE = b"<!DOCTYPE html><title>Welcome to the guest network</title>"


@pytest.fixture
def blob(fleet: Fleet) -> Path:
    fleet.publish(size_bytes=SIZE)
    fleet.deploy("digits=1")
    (blob,) = (path for path in fleet.store.glob("blobs/sha256/*/*") if path.stat().st_size == SIZE)
    return blob


@pytest.fixture
def store(fleet: Fleet, blob: Path) -> Iterator[Server]:
    with Server(fleet.store, blob) as server:
        yield server


@pytest.fixture
def reader(device: Device, store: Server) -> Device:
    return device.with_store(url=store.url, timeout_s=0.5)


def fails(device: Device, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as raised:
        device.sync()
    assert "\n" not in str(raised.value)


def recovers(device: Device, store: Server) -> None:
    """The next look, at a store that behaves, brings the version."""
    store.mischief = None
    result = device.sync()
    assert result.plan is not None
    assert [version.version for version in result.plan.versions] == ["1"]
    assert all(Path(version.path).stat().st_size == SIZE for version in result.plan.versions)


def staged_bytes(device: Device, blob: Path) -> int:
    part = device.layout.staging / f"{blob.name}.part"
    return part.stat().st_size if part.exists() else 0


# --- answers that are not the file ------------------------------------------------------------------------


def portal(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})


def to_portal(handler: Handler, content: bytes, offset: int) -> None:
    handler.server.mischief = portal
    handler.answer(302, b"", {"Location": handler.path})


def in_circles(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(302, b"", {"Location": handler.path})


def gzipped(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, content, {"Content-Encoding": "gzip"})


def garbage(handler: Handler, content: bytes, offset: int) -> None:
    handler.wfile.write(b"\x00\x01\x02 no HTTP at all\r\n\r\n")
    handler.close_connection = True


def status(code: int, **fields: str) -> Mischief:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return lambda handler, content, offset: handler.answer(code, PAGE, named)


@pytest.mark.parametrize(
    ("mischief", "says"),
    [
        pytest.param(
            portal, "a web page instead of the file: log in to the network's captive portal", id="portal"
        ),
        pytest.param(to_portal, "a web page instead of the file", id="redirect to a portal"),
        pytest.param(in_circles, "redirects in circles: correct store.url", id="redirects"),
        pytest.param(gzipped, "compresses .* though it was asked not to", id="gzip"),
        pytest.param(garbage, "Cannot get http", id="no HTTP"),
        pytest.param(status(404), r"The store has no .* \(HTTP 404\)", id="404"),
        pytest.param(status(403), r"The store has no .* \(HTTP 403\)", id="403"),
        pytest.param(status(401), "wants credentials", id="401"),
        pytest.param(status(500), "answered HTTP 500 for", id="500"),
        pytest.param(status(204), "answered HTTP 204 for", id="204"),
    ],
)
def test_what_is_not_the_file_is_told_and_not_kept(
    reader: Device, store: Server, blob: Path, mischief: Mischief, says: str
) -> None:
    store.mischief = mischief
    fails(reader, StoreUnreachableError, says)
    assert staged_bytes(reader, blob) == 0
    recovers(reader, store)


@pytest.mark.parametrize(("code", "asks"), [(429, "7"), (503, "3600")])
def test_a_store_that_is_busy_says_for_how_long(reader: Device, store: Server, code: int, asks: str) -> None:
    store.mischief = status(code, Retry_After=asks)
    result = reader.sync_child()
    assert (result.status, result.kind, result.retry_after_s) == ("failed", "network", float(asks))
    assert f"HTTP {code}" in result.message
    assert f"trying again in {asks} s, as it asks" in result.message
    recovers(reader, store)


def test_a_date_to_come_again_is_understood(reader: Device, store: Server) -> None:
    store.mischief = status(503, Retry_After="Fri, 31 Dec 2999 23:59:59 GMT")
    assert reader.sync_child().retry_after_s > 86_400
    store.mischief = status(503, Retry_After="when it suits")
    assert reader.sync_child().retry_after_s == 0


# --- links that break -------------------------------------------------------------------------------------


def cut_short(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, content[:600_000], length=len(content))


def reset(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, content[:600_000], length=len(content))
    time.sleep(0.2)  # else the reset overtakes what was sent
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def without_length(handler: Handler, content: bytes, offset: int) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + content[:600_000])
    handler.close_connection = True


def stalls(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, content[:600_000], length=len(content))
    handler.connection.recv(1)  # until the client gives up


def drips(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, content[:600_000], length=len(content))
    for byte in content[600_000:]:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("mischief", "says"),
    [
        pytest.param(cut_short, "Cannot get .*", id="shorter than it said"),
        pytest.param(reset, "Cannot get .*", id="reset"),
        pytest.param(without_length, "ended after 600000 of 1000000 bytes; what came is kept", id="no length"),
        pytest.param(stalls, "did not answer in time", id="stall"),
        pytest.param(drips, r"sent only \d+ bytes in 0\.5 s", id="drip"),
    ],
)
def test_what_came_over_a_link_that_broke_is_kept(
    reader: Device, store: Server, blob: Path, mischief: Mischief, says: str
) -> None:
    store.mischief = mischief
    fails(reader, StoreUnreachableError, says)
    kept = staged_bytes(reader, blob)
    # A stream that just ends is known by its last piece; what a stream of known length lacks, too.
    assert 600_000 <= kept < 601_000
    recovers(reader, store)
    assert store.offsets == [0, kept]


def test_a_download_that_breaks_again_and_again_comes_to_its_end(
    reader: Device, store: Server, blob: Path
) -> None:
    def next_piece(handler: Handler, content: bytes, offset: int) -> None:
        fields = {"Content-Range": f"bytes {offset}-{len(content) - 1}/{len(content)}"} if offset else {}
        handler.answer(
            206 if offset else 200, content[offset : offset + 300_000], fields, len(content) - offset
        )

    store.mischief = next_piece
    for _ in range(3):
        fails(reader, StoreUnreachableError, "Cannot get")
    assert reader.sync().status == "plan"
    assert store.offsets == [0, 300_000, 600_000, 900_000]


# --- files that are not what was signed -------------------------------------------------------------------


def too_long(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, content + b"more")


def too_short(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, content[:600_000])


def another(handler: Handler, content: bytes, offset: int) -> None:
    handler.file(b"!" + content[1:-1] + b"!", offset)


def endless(handler: Handler, content: bytes, offset: int) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")


@pytest.mark.parametrize(
    ("mischief", "error", "says", "kept"),
    [
        pytest.param(too_long, ArtifactError, "longer than the 1000000 bytes that were signed", 0, id="longer"),
        pytest.param(endless, ArtifactError, "longer than the 1000000 bytes that were signed", 0, id="endless"),
        pytest.param(
            another, ArtifactError, "is not the file that was signed, publish it again", 0, id="other"
        ),
        pytest.param(too_short, StoreUnreachableError, "ended after 600000 of 1000000", 600_000, id="shorter"),
    ],
)
def test_another_file_is_refused(
    reader: Device, store: Server, blob: Path, mischief: Mischief, error: type[Exception], says: str, kept: int
) -> None:
    store.mischief = mischief
    fails(reader, error, says)
    assert staged_bytes(reader, blob) == kept
    recovers(reader, store)


def test_a_wrong_beginning_is_thrown_away_and_the_file_fetched_once_more_from_its_start(
    reader: Device, store: Server, blob: Path
) -> None:
    reader.layout.create()
    (reader.layout.staging / f"{blob.name}.part").write_bytes(b"\0" * 400_000)
    recovers(reader, store)
    assert store.offsets == [400_000, 0]


def test_a_file_that_changes_while_it_is_fetched_is_refused_after_one_more_try(
    reader: Device, store: Server, blob: Path
) -> None:
    store.mischief = cut_short
    fails(reader, StoreUnreachableError, "Cannot get")
    store.mischief = another
    fails(reader, ArtifactError, "is not the file that was signed")
    assert store.offsets == [0, 600_000, 0]
    assert staged_bytes(reader, blob) == 0
    recovers(reader, store)


# --- servers that know no ranges --------------------------------------------------------------------------


def without_ranges(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, content)


def no_such_range(handler: Handler, content: bytes, offset: int) -> None:
    if offset:
        handler.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
    else:
        handler.file(content, 0)


def another_range(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(206, content[1:], {"Content-Range": f"bytes 1-{len(content) - 1}/{len(content)}"})


@pytest.mark.parametrize(("mischief", "requests_"), [(without_ranges, 1), (no_such_range, 2)])
def test_without_ranges_a_file_is_fetched_from_its_start(
    reader: Device, store: Server, blob: Path, mischief: Mischief, requests_: int
) -> None:
    store.mischief = cut_short
    fails(reader, StoreUnreachableError, "Cannot get")
    store.offsets.clear()
    store.mischief = mischief
    assert reader.sync().status == "plan"
    assert store.offsets == [600_000, 0][:requests_]


def test_another_range_than_was_asked_for_is_refused_and_what_is_here_kept(
    reader: Device, store: Server, blob: Path
) -> None:
    store.mischief = cut_short
    fails(reader, StoreUnreachableError, "Cannot get")
    store.mischief = another_range
    fails(reader, StoreUnreachableError, "answered a request for bytes 600000- with 'bytes 1-999999/1000000'")
    assert staged_bytes(reader, blob) == 600_000
    recovers(reader, store)
    assert store.offsets[-1] == 600_000


# --- across restarts, and shared by content ---------------------------------------------------------------


def test_a_killed_sync_is_continued_by_the_next(reader: Device, store: Server, blob: Path) -> None:
    def slowly(handler: Handler, content: bytes, offset: int) -> None:
        handler.answer(200, content[:600_000], length=len(content))
        handler.connection.recv(1)

    store.mischief = slowly
    patient = reader.with_store(timeout_s=60.0)
    command = [sys.executable, "-m", "edge_agent.control.sync"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        child.stdin.write(msgspec.json.encode(patient.request()) + b"\n")
        child.stdin.flush()
        wait_until(lambda: staged_bytes(reader, blob) > 500_000, "half of the file is here")
        child.kill()
    kept = staged_bytes(reader, blob)
    recovers(reader, store)
    assert store.offsets == [0, kept]


def test_a_file_that_two_versions_share_is_fetched_once(
    fleet: Fleet, device: Device, requests: list[str]
) -> None:
    package = build_package(fleet.folder, version="1")
    publish(fleet.repository, [read_package(package)], fleet.keys, fleet.now)
    text = (package / "manifest.json").read_text()
    (package / "manifest.json").write_text(text.replace('"version":"1"', '"version":"2"'))
    publish(fleet.repository, [read_package(package)], fleet.keys, fleet.now)
    fleet.deploy("digits=1:50,2:50")
    assert device.sync().downloaded_bytes == 301_000
    assert sum("/blobs/" in line for line in requests) == 2
    fleet.deploy("digits=2")
    assert device.sync().downloaded_bytes == 0
