"""A web server with a store, of which one file can be answered for in any way."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self


class Handler(BaseHTTPRequestHandler):
    """Serves a store, with ranges; of the file that misbehaves it does what it is told."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        path = self.server.folder / self.path.lstrip("/")
        offset = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if path.name == self.server.victim.name:
            self.server.offsets.append(offset)
            if self.server.mischief is not None:
                self.server.mischief(self, path.read_bytes(), offset)
                return
        if path.is_file():
            self.file(path.read_bytes(), offset)
        else:
            self.answer(404)

    def file(self, content: bytes, offset: int) -> None:
        """Answer as a good server does."""
        status, fields = (
            (206, {"Content-Range": f"bytes {offset}-{len(content) - 1}/{len(content)}"})
            if offset
            else (200, {})
        )
        self.answer(status, content[offset:], fields)

    def answer(
        self, status: int, body: bytes = b"", fields: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body) if length is None else length),
            **(fields or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = length is not None

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        pass


Mischief = Callable[[Handler, bytes, int], None]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path, victim: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), name="bad store", daemon=True)
        self.folder = folder
        self.victim = victim
        self.mischief: Mischief | None = None
        """What is done instead of a good answer to a request for the victim."""
        self.offsets: list[int] = []
        """Where each request for the victim began."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away."""
