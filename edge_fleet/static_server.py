"""A small static web server for trying a store: ETags, conditional and Range requests, GET and HEAD.

Any web server, CDN or bucket can serve a store; nothing here is trusted by devices.
Source: RFC 9110, sections 13 (conditional requests) and 14 (ranges).
"""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Final
from urllib.parse import unquote, urlsplit

from edge_agent.documents.errors import OperatorError

_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
_VERSIONED: Final = re.compile(r"(metadata/\d+\.[^/]+\.json|targets/.+|blobs/.+|patches/.+)")


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes of a file from `start` to before `end`."""

    start: int
    end: int


class StaticServer(ThreadingHTTPServer):
    """Serves one folder; `log` gets a line for each request."""

    daemon_threads = True

    def __init__(self, folder: Path, host: str, port: int, log: Callable[[str], None]) -> None:
        self.folder = folder.resolve()
        self.log = log
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise OperatorError(
                f"Cannot listen on {host}:{port} ({error.strerror}): choose another --port or --host."
            ) from error

    def handle_error(self, request: object, client_address: object) -> None:
        """Tell in one line what ended a connection, most often a client that went away."""
        self.log(f"{client_address} {sys.exc_info()[1]!r}")

    @property
    def url(self) -> str:
        """The address to give to devices as store.url."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"


class _Handler(BaseHTTPRequestHandler):
    server: StaticServer
    protocol_version = "HTTP/1.1"
    timeout = 60
    # Headers and body are two writes: without this the second waits 40 ms for the client's delayed ACK.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the base class gives it
        self.server.log(f"{self.address_string()} {format % args}")

    def _answer(self) -> None:
        path = locate(self.server.folder, self.path)
        try:
            file = None if path is None else path.open("rb")
        except OSError:
            file = None
        if path is None or file is None:
            self._finish(HTTPStatus.NOT_FOUND, {"Content-Length": "0"})
            return
        with file:
            self._send(file, path.relative_to(self.server.folder).as_posix())

    def _send(self, file: IO[bytes], name: str) -> None:
        status = os.fstat(file.fileno())
        etag = f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'
        headers = {
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/json" if name.endswith(".json") else "application/octet-stream",
            "Cache-Control": "max-age=31536000, immutable" if _VERSIONED.fullmatch(name) else "no-cache",
        }
        if matches(self.headers.get("If-None-Match"), etag):
            self._finish(HTTPStatus.NOT_MODIFIED, headers)
            return
        wanted = self.headers.get("Range") if self.headers.get("If-Range", etag) == etag else None
        span = choose_span(wanted, status.st_size)
        if span is None:
            self._finish(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                {"Content-Range": f"bytes */{status.st_size}", "Content-Length": "0"},
            )
            return
        self._send_span(file, span, status.st_size, headers, partial=wanted is not None)

    def _send_span(
        self, file: IO[bytes], span: Span, size_bytes: int, headers: dict[str, str], partial: bool
    ) -> None:
        headers["Content-Length"] = str(span.end - span.start)
        if partial and (span.start, span.end) != (0, size_bytes):
            headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{size_bytes}"
            self._finish(HTTPStatus.PARTIAL_CONTENT, headers)
        else:
            self._finish(HTTPStatus.OK, headers)
        if self.command == "HEAD":
            return
        file.seek(span.start)
        try:
            _copy(file, self.wfile, span.end - span.start)
        except ConnectionError:
            self.close_connection = True

    def _finish(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def locate(folder: Path, target: str) -> Path | None:
    """Return the file that a request target names, or None if it is not a public file inside the folder."""
    parts = unquote(urlsplit(target).path).split("/")
    names = [part for part in parts if part]
    if not names or any(name.startswith(".") or "\0" in name for name in names):
        return None
    try:
        path = folder.joinpath(*names).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None
    except OSError:  # a name that no file can have, such as a very long one
        return None


def matches(if_none_match: str | None, etag: str) -> bool:
    """Say whether an If-None-Match header holds the tag; `W/` makes no difference here."""
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or tags == ["*"]


def choose_span(wanted: str | None, size_bytes: int) -> Span | None:
    """Return the bytes that a Range header asks for: all if it is not understood, None if it is outside."""
    match = _RANGE.fullmatch(wanted or "")
    if match is None or match[0] == "bytes=-":
        return Span(0, size_bytes)
    first, last = match.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
    return Span(start, end) if start < end else None


def _copy(source: IO[bytes], target: BufferedIOBase, length_bytes: int) -> None:
    left = length_bytes
    while left > 0 and (chunk := source.read(min(left, 2**18))):
        target.write(chunk)
        left -= len(chunk)
