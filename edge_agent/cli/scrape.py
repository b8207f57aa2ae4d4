"""Fetches the page of metrics from a serving process, over its Unix socket or TCP; without numpy."""

import http.client
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from edge_agent.cli.exposition import Samples, parse
from edge_agent.documents.errors import OperatorError, RequestError, UnavailableError

_PATH: Final = "/metrics"
_OURS: Final = "edge_agent_build_info"
_MAX_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Place:
    """Where metrics are to be had: a Unix socket, or a host and port."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return str(self.path) if self.path is not None else f"http://{self.host}:{self.port}"


def place_of(url: str) -> Place:
    """Return the place of an `http://HOST:PORT`; raises RequestError for anything else."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme != "http":
        raise RequestError(f"'{url}' is no address of an agent; give --url http://HOST:PORT.")
    return Place(host=host, port=port or 80)


def fetch(place: Place, timeout_s: float) -> Samples:
    """Return what `/metrics` says now.

    Raises UnavailableError where nothing answers or what answers is no agent, OperatorError where this user may
    not ask.
    """
    connection = _connection(place, timeout_s)
    try:
        connection.request("GET", _PATH, headers={"Connection": "close"})
        answer = connection.getresponse()
        content = answer.read(_MAX_BYTES)
    except PermissionError as error:
        raise OperatorError(
            f"You may not use {place}; use sudo, or join the group that http.socket_group names."
        ) from error
    except TimeoutError as error:
        raise UnavailableError(f"Serving at {place} is there but does not answer.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UnavailableError(f"Serving does not answer at {place}: {reason.lower()}.") from error
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise UnavailableError(f"{place} answers {_PATH} with status {answer.status}; is that an agent?")
    try:
        samples = parse(content.decode())
    except ValueError as error:
        raise UnavailableError(f"{place} answers {_PATH} with something else than metrics: {error}.") from error
    if _OURS not in samples:
        raise UnavailableError(f"{place} answers {_PATH}, but not with an agent's metrics; check the address.")
    return samples


def _connection(place: Place, timeout_s: float) -> http.client.HTTPConnection:
    if place.path is None:
        return http.client.HTTPConnection(place.host, place.port, timeout=timeout_s)
    return _UnixConnection(place.path, timeout_s)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
