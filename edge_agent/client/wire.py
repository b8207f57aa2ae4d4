"""The clients' way of HTTP, without input and output: addresses, requests as bytes, answers from bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

import httptools

from edge_agent.documents.errors import (
    DeadlineExceededError,
    EdgeAgentError,
    OperatorError,
    SettingsError,
    UnavailableError,
)
from edge_agent.documents.places import this_process_places
from edge_agent.store.layout import RuntimeLayout

T = TypeVar("T")

_SERVICE: Final = Path("/run/edge-agent")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the agent listens: a Unix socket, or a host and port."""

    path: str | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return self.path or f"http://{self.host}:{self.port}"


def find_address(where: str | Path | None) -> Address:
    """Return the address of a socket's path or an `http://host:port`; of this host's agent if None."""
    if where is None:
        service = RuntimeLayout(_SERVICE).infer_socket
        own = RuntimeLayout(this_process_places().runtime).infer_socket
        return Address(str(service if service.exists() else own))
    if not str(where).startswith(("http://", "https://")):
        return Address(str(where))
    try:
        url = urlsplit(str(where))
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if host is None or url.scheme != "http":
        raise SettingsError(f"'{where}' is no address of an agent; give a socket's path or http://HOST:PORT.")
    return Address(host=host, port=port or 80)


def unreachable(address: Address, error: OSError) -> EdgeAgentError:
    """Return the error of a connection that could not be made."""
    if isinstance(error, PermissionError):
        return OperatorError(
            f"This user may not use {address}; add it to the group that http.socket_group names, "
            "or run as the agent's user."
        )
    return UnavailableError(
        f"No agent answers at {address} ({error.strerror or error}); "
        "start one with 'edge-agent run' or 'edge-agent serve MODEL'."
    )


def broken(address: Address) -> EdgeAgentError:
    """Return the error of a connection that ended before the answer."""
    return UnavailableError(f"The agent at {address} closed the connection before it answered; try again.")


def late(timeout_s: float) -> EdgeAgentError:
    """Return the error of a call that took too long."""
    return DeadlineExceededError(
        f"No answer came within {timeout_s:g} s; try again, or give the call more with timeout_s."
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the server; header names are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, as bytes, and how its answer is read; `read` raises the error that the answer tells."""

    request: bytes
    read: Callable[[Reply], T]


class Exchange:
    """Puts one answer together from what comes in."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self.reply: Reply | None = None

    def feed(self, data: bytes) -> Reply | None:
        """Take bytes; return the answer once it is whole. Raises UnavailableError on what is no HTTP."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise UnavailableError(f"What answers is no agent: {error}; check the address.") from error
        return self.reply

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header."""
        self._headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        """Collect the body."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """Keep the answer."""
        self.reply = Reply(
            self._parser.get_status_code(),
            self._headers,
            b"".join(self._parts),
            self._parser.should_keep_alive(),
        )
        # The parser holds this object, too: together they would stay until somebody collects garbage.
        del self._parser
        self._parts = []


def request_bytes(method: str, path: str, head: str = "", body: Sequence[bytes | memoryview] = ()) -> bytes:
    """Return a request; `head` is further lines of its head."""
    length = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in body)
    lines = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{head}\r\n"
    return b"".join((lines.encode(), *body))
