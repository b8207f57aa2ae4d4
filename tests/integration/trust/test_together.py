"""Two processes that would work in one trust folder, and stores that keep a look from ending."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from edge_agent.documents.errors import StoreUnreachableError
from edge_agent.documents.ipc import FromSync, SyncProgress, SyncResult
from support.tiny_fleet import Device, Fleet


class Gate(ThreadingHTTPServer):
    """A store that gives files out, and blobs only once it is opened."""

    daemon_threads = True

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.opened = threading.Event()
        super().__init__(("127.0.0.1", 0), _Waiting)


class _Waiting(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        gate = self.server
        assert isinstance(gate, Gate)
        if self.path.startswith("/blobs/"):
            gate.opened.wait(60)
        path = gate.fleet.store / self.path.lstrip("/")
        content = path.read_bytes() if path.is_file() else b""
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        pass


@pytest.fixture
def gate(fleet: Fleet) -> Iterator[Gate]:
    with Gate(fleet) as gate:
        thread = threading.Thread(target=gate.serve_forever, args=(0.01,), name="gate", daemon=True)
        thread.start()
        yield gate
        gate.opened.set()
        gate.shutdown()
        thread.join()


def test_a_second_process_is_refused_from_the_first_look_to_the_last_file(
    fleet: Fleet, device: Device, gate: Gate
) -> None:
    fleet.publish()
    fleet.deploy("digits=1")
    device = device.with_store(url=f"http://127.0.0.1:{gate.server_port}", timeout_s=60.0)
    command = [sys.executable, "-m", "edge_agent.control.sync"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        first.stdin.write(msgspec.json.encode(device.request()) + b"\n")
        first.stdin.close()
        assert isinstance(msgspec.json.decode(first.stdout.readline(), type=FromSync), SyncProgress)
        wait_for_commit(device)

        second = device.sync_child()
        assert (second.status, second.kind) == ("failed", "operator")
        assert f"Another process is working in {device.layout.trust}" in second.message

        gate.opened.set()
        result = msgspec.json.decode(first.stdout.readlines()[-1], type=FromSync)
        assert isinstance(result, SyncResult)
        assert result.status == "plan"
    assert device.sync_child().status == "unchanged"


def test_a_killed_process_leaves_no_lock(fleet: Fleet, device: Device, gate: Gate) -> None:
    fleet.publish()
    fleet.deploy("digits=1")
    device = device.with_store(url=f"http://127.0.0.1:{gate.server_port}", timeout_s=60.0)
    command = [sys.executable, "-m", "edge_agent.control.sync"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None
        first.stdin.write(msgspec.json.encode(device.request()) + b"\n")
        first.stdin.close()
        wait_for_commit(device)
        first.kill()
    gate.opened.set()
    assert device.sync_child().status == "plan"


def wait_for_commit(device: Device) -> None:
    """Return once the metadata is on disk: the first process waits for the gate then."""
    deadline_s = time.monotonic() + 30
    while not (device.layout.trust / "current").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


class _Dripping(BaseHTTPRequestHandler):
    """Keeps every request going for ever: by its head, or by a body above any pace that is asked for."""

    def do_GET(self) -> None:
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Endless: ")
            if self.server.server_name == "body":
                self.wfile.write(b"0\r\nContent-Length: 15000000\r\n\r\n")
            while True:
                self.wfile.write(b"x" * (500 if self.server.server_name == "body" else 1))
                time.sleep(0.05)
        except ConnectionError:
            pass

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        pass


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_store_that_is_never_done_ends_at_the_deadline(part: str, device: Device) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Dripping) as server:
        server.daemon_threads = True
        server.server_name = part
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="dripping", daemon=True)
        thread.start()
        dripping = device.with_store(
            url=f"http://127.0.0.1:{server.server_port}", metadata_deadline_s=0.5, timeout_s=2.0
        )
        with pytest.raises(StoreUnreachableError, match=r"did not come whole within 0\.5 s"):
            dripping.sync()
        started_s = time.monotonic()
        assert dripping.sync_child().kind == "network"
        assert time.monotonic() - started_s < 20
        server.shutdown()
        thread.join()
