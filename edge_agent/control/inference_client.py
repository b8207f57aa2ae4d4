"""Asks serving over its Unix socket, as any local app does; without numpy, since the bodies stay JSON text."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httptools

from edge_agent.documents.errors import DeadlineExceededError, UnavailableError

TIMEOUT_S: Final = 60.0
IDLE_LIMIT: Final = 4
"""Connections that are kept for the next request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What serving answered: the status, and a body that is JSON if `is_json`."""

    status: int
    body: bytes
    is_json: bool


class InferenceClient:
    """Sends requests, each on a connection of its own while it lasts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, model: str, action: str, body: bytes) -> Answer:
        """Post to `/v2/models/<model>/<action>`; raises UnavailableError or DeadlineExceededError."""
        head = (
            f"POST /v2/models/{quote(model, safe='')}/{action} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._exchange(head.encode() + body)
        except TimeoutError:
            raise DeadlineExceededError(f"No answer came within {TIMEOUT_S:g} s; try again.") from None
        except (OSError, httptools.HttpParserError) as error:
            raise UnavailableError(f"The serving process does not answer ({error}); try again.") from error

    def close(self) -> None:
        """Close the connections that are kept."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _exchange(self, request: bytes) -> Answer:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return await self._ask((reader, writer), request)
            writer.close()  # serving has closed it meanwhile, or is a new process
        return await self._ask(await asyncio.open_unix_connection(self._path), request)

    async def _ask(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes) -> Answer:
        reader, writer = streams
        response = _Response()
        try:
            writer.write(request)
            while not response.is_complete:
                data = await reader.read(2**16)
                if not data:
                    raise ConnectionResetError("it closed the connection")  # noqa: TRY301
                response.parser.feed_data(data)
        except BaseException:
            writer.close()
            raise
        if response.parser.should_keep_alive() and len(self._idle) < IDLE_LIMIT:
            self._idle.append(streams)
        else:
            writer.close()
        return Answer(response.parser.get_status_code(), b"".join(response.parts), response.is_json)


class _Response:
    """Puts one response together, as httptools reads it."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.parts: list[bytes] = []
        self.is_json = True
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note whether the body is JSON."""
        if name.lower() == b"content-type":
            self.is_json = value.startswith(b"application/json")

    def on_body(self, data: bytes) -> None:
        """Collect the body."""
        self.parts.append(data)

    def on_message_complete(self) -> None:
        """Note the end."""
        self.is_complete = True
