"""Fixtures of the way from a package to a device."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_agent.documents.settings import DeviceSettings, PathSettings, Settings, StoreSettings
from edge_fleet.static_server import StaticServer
from support.tiny_fleet import Device, Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet(tmp_path / "fleet")
    fleet.repository.create(fleet.keys, fleet.now)
    return fleet


@pytest.fixture
def requests() -> list[str]:
    """What the store was asked for, a log line each."""
    return []


@pytest.fixture
def serve(requests: list[str]) -> Iterator[Callable[[Path], StaticServer]]:
    servers: list[tuple[StaticServer, threading.Thread]] = []

    def start(folder: Path) -> StaticServer:
        server = StaticServer(folder, "127.0.0.1", 0, requests.append)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="static server", daemon=True)
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def device(tmp_path: Path, fleet: Fleet, serve: Callable[[Path], StaticServer]) -> Device:
    root = tmp_path / "root.json"
    root.write_bytes((fleet.store / "root.json").read_bytes())
    return Device(
        Settings(
            device=DeviceSettings(id="bench-1", labels={"site": "ulm"}),
            paths=PathSettings(state=str(tmp_path / "state"), runtime=str(tmp_path / "run")),
            store=StoreSettings(url=serve(fleet.store).url, root=str(root), timeout_s=5.0),
        )
    )


class _Page(BaseHTTPRequestHandler):
    """Answers every request with a page to log in."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(b"<!DOCTYPE html><title>Welcome to the guest network</title>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        pass


@pytest.fixture
def portal() -> Iterator[str]:
    """A network that answers everything with its own page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="portal", daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def stalling() -> Iterator[str]:
    """A store that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def dripping() -> Iterator[str]:
    """A store that sends a byte every 20 ms, until nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_drip, args=(listener,), name="drip", daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def _drip(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection, suppress(ConnectionError):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)
