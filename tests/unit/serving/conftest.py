"""The HTTP server of serving with a small application, on its own loop in a thread."""

import asyncio
import dataclasses
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from edge_agent.serving.http1 import Connection
from edge_agent.serving.http_messages import Limits, Reply, Request, Response
from edge_agent.serving.intake import Intake

LIMIT_S = 10.0


@dataclass
class HttpServer:
    """Answers each request with what it was; `/later` when `release` is called, `/big` with 4 MB."""

    path: Path
    tcp: tuple[str, int]
    loop: asyncio.AbstractEventLoop
    connections: set[Connection]
    intake: Intake = field(default_factory=lambda: Intake(300_000))
    held: list[tuple[Reply, Response]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __call__(self, request: Request, reply: Reply) -> None:
        self.asked.append(request.path)
        told = {
            "method": request.method,
            "path": request.path,
            "headers": {
                name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers.items()
            },
            "size": len(request.body),
            "body": request.body[:100].decode("latin-1"),
        }
        response = Response(200, (json.dumps(told).encode(),), headers=(("Asked", request.method),))
        if request.path == "/big":
            response = Response(200, (b"x" * 2**22,), "text/plain")
        if request.path == "/later":
            self.held.append((reply, response))
        else:
            reply.send(response)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function on the server's thread and return its result."""

        async def run() -> Any:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(LIMIT_S)

    def release(self) -> None:
        """Answer all that is held."""
        while self.held:
            reply, response = self.held.pop(0)
            self.call(reply.send, response)

    def connect(self, kind: str = "unix") -> socket.socket:
        """Return a new connection."""
        if kind == "tcp":
            return socket.create_connection(self.tcp, LIMIT_S)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(LIMIT_S)
        connection.connect(str(self.path))
        return connection


@pytest.fixture
def limits() -> Limits:
    return Limits(
        max_connections=100,
        max_body_bytes=100_000,
        idle_timeout_s=30,
        request_timeout_s=30,
        refuse_origins=False,
    )


@pytest.fixture
def server(tmp_path: Path, limits: Limits) -> Iterator[HttpServer]:
    ready: queue.SimpleQueue[tuple[HttpServer, asyncio.Event]] = queue.SimpleQueue()
    faults: list[dict[str, Any]] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        listener = socket.create_server(("127.0.0.1", 0))
        served = HttpServer(tmp_path / "s", listener.getsockname(), loop, set())
        browsers = dataclasses.replace(limits, refuse_origins=True)
        servers = [
            await loop.create_unix_server(
                lambda: Connection(served, limits, served.connections, served.intake), str(served.path)
            ),
            await loop.create_server(
                lambda: Connection(served, browsers, served.connections, served.intake), sock=listener
            ),
        ]
        done = asyncio.Event()
        ready.put((served, done))
        await done.wait()
        for one in servers:
            one.close()
        for connection in tuple(served.connections):
            connection.abort()

    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    served, done = ready.get(timeout=LIMIT_S)
    yield served
    served.loop.call_soon_threadsafe(done.set)
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert faults == []
