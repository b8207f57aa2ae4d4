"""Fixtures of the way from a package to a device."""

import threading
from collections.abc import Callable, Iterator
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
    root.write_bytes(fleet.repository.root_file.read_bytes())
    return Device(
        Settings(
            device=DeviceSettings(id="bench-1", labels={"site": "ulm"}),
            paths=PathSettings(state=str(tmp_path / "state"), runtime=str(tmp_path / "run")),
            store=StoreSettings(url=serve(fleet.store).url, root=str(root), timeout_s=5.0),
        )
    )
