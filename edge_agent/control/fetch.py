"""Gets files from a store: a web server through httpx, or a folder such as a USB stick.

The one module on the device that touches httpx. Nothing that comes from a store is trusted here; trust and
blobs check signatures and digests.
"""

import errno
import hashlib
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Final, Protocol
from urllib.parse import quote, unquote, urlsplit

import httpx

from edge_agent import __version__
from edge_agent.documents.errors import SettingsError, StoreUnreachableError
from edge_agent.documents.settings import StoreSettings
from edge_agent.store.blobs import Stream

_CHUNK_BYTES: Final = 64 * 2**10
_LEAST_PACE_BYTES: Final = 1024
"""What must come within each `timeout_s`: else a store that drips bytes would hold a sync for ever."""


class StoreFileMissingError(StoreUnreachableError):
    """The store answers, but has no such file or does not give it out (404, 403, 410)."""


@dataclass(frozen=True, slots=True)
class Polled:
    """The answer to a conditional request."""

    changed: bool
    etag: str
    """The server's ETag, or a digest of the content where it sends none."""


class Store(Protocol):
    """A store's files, by path relative to its base."""

    def get(self, path: str, max_bytes: int) -> bytes:
        """Return a small file whole; raises StoreUnreachableError, also if it is longer than `max_bytes`."""
        ...

    def poll(self, path: str, max_bytes: int, etag: str | None) -> Polled:
        """Say whether a file differs from the one that had this etag."""
        ...

    def stream(self, path: str, offset: int) -> AbstractContextManager[Stream]:
        """Open a file at an offset in bytes; the stream says where it really starts."""
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


def is_network(settings: StoreSettings, folder: str | None) -> bool:
    """Say whether `open_store` with the same arguments would reach for the network."""
    return folder is None and not (settings.url or "").startswith("file:")


def open_store(
    settings: StoreSettings, folder: str | None = None, count: Callable[[int], None] = lambda _: None
) -> Store:
    """Return the store of a folder, or of the settings' URL; raises SettingsError if there is none to open.

    `count` is told of the bytes that HTTP moves, either way.
    """
    if folder is not None:
        return FolderStore(Path(folder))
    if settings.url is None:
        raise SettingsError("No store is set: set store.url to the address of your store.")
    parts = urlsplit(settings.url)
    if parts.scheme == "file":
        return FolderStore(Path(unquote(parts.path)))
    if parts.scheme in ("http", "https") and parts.netloc:
        return HttpStore(settings, count)
    raise SettingsError(f"store.url is '{settings.url}': it must start with http://, https:// or file:///.")


class FolderStore:
    """A store in a folder."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def get(self, path: str, max_bytes: int) -> bytes:
        """Return a file whole."""
        full = self._base / path
        with self._mapping_errors(full), _open_file(full) as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise StoreUnreachableError(_too_long(str(full), max_bytes))
        return content

    def poll(self, path: str, max_bytes: int, etag: str | None) -> Polled:
        """Compare the file's digest."""
        digest = _digest_tag(self.get(path, max_bytes))
        return Polled(digest != etag, digest)

    @contextmanager
    def stream(self, path: str, offset: int) -> Iterator[Stream]:
        """Open a file at an offset."""
        full = self._base / path
        with self._mapping_errors(full):
            file = _open_file(full)
        with file:
            file.seek(offset)
            yield Stream(offset, self._chunks(file, full), os.fstat(file.fileno()).st_size)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _chunks(self, file: IO[bytes], full: Path) -> Iterator[bytes]:
        with self._mapping_errors(full):
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    @contextmanager
    def _mapping_errors(self, full: Path) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise self._missing(full) from error
        except OSError as error:
            raise StoreUnreachableError(
                f"Cannot read {full}: {error.strerror or error}; check the medium and its permissions."
            ) from error

    def _missing(self, full: Path) -> StoreUnreachableError:
        if not self._base.is_dir():
            return StoreUnreachableError(f"The folder {self._base} is not there: is the medium mounted?")
        if not (self._base / "metadata").is_dir():
            return StoreUnreachableError(
                f"The folder {self._base} holds no store: name the folder that has `metadata` in it."
            )
        return StoreFileMissingError(
            f"The store has no {full}: copy the store to this folder again, whole, or publish it again."
        )


class HttpStore:
    """A store on a web server."""

    def __init__(self, settings: StoreSettings, count: Callable[[int], None] = lambda _: None) -> None:
        self._base = (settings.url or "").rstrip("/") + "/"
        self._count = count
        self._timeout_s = settings.timeout_s
        self._client = _client(settings)

    def get(self, path: str, max_bytes: int) -> bytes:
        """Return a file whole."""
        with self._request(path, {}) as response:
            return self._body(response, max_bytes)

    def poll(self, path: str, max_bytes: int, etag: str | None) -> Polled:
        """Ask with If-None-Match."""
        with self._request(path, {"If-None-Match": etag} if etag else {}) as response:
            if response.status_code == 304 and etag:
                return Polled(False, etag)
            now = response.headers.get("ETag") or _digest_tag(self._body(response, max_bytes))
            return Polled(now != etag, now)

    @contextmanager
    def stream(self, path: str, offset: int) -> Iterator[Stream]:
        """Open a file at an offset, by Range; a server that knows no ranges starts at 0."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._request(path, headers) as response:
            if response.status_code != 416:
                start = _offset(response, offset)
                yield Stream(start, self._chunks(response), _size_bytes(response, start))
                return
        # The file is shorter than what was fetched of it before: what is here cannot be its beginning.
        with self._request(path, {}) as response:
            yield Stream(0, self._chunks(response), _size_bytes(response, 0))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextmanager
    def _request(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        url = self._base + quote(path, safe="/%")
        with _mapping_errors(_shown(url)):
            request = self._client.build_request("GET", url, headers=headers)
            response = self._client.send(request, stream=True)
        self._count(sum(map(_head_bytes, (*response.history, response))))
        try:
            _check(response, _shown(url), allowed=_expected(headers))
            yield response
        finally:
            response.close()

    def _body(self, response: httpx.Response, max_bytes: int) -> bytes:
        content = bytearray()
        for chunk in self._chunks(response):
            content += chunk
            if len(content) > max_bytes:
                raise StoreUnreachableError(_too_long(_shown(str(response.url)), max_bytes))
        return bytes(content)

    def _chunks(self, response: httpx.Response) -> Iterator[bytes]:
        url = _shown(str(response.url))
        pace = _Pace(self._timeout_s, time.monotonic)
        before_bytes = 0
        with _mapping_errors(url):
            for chunk in response.iter_raw():
                if not before_bytes and _is_web_page(response, chunk):
                    raise StoreUnreachableError(
                        f"{url} answered with a web page instead of the file: log in to the network's captive "
                        "portal, or correct store.url."
                    )
                self._count(len(chunk))
                # By what came before, since this may be the end: a small file may come late, if it comes whole.
                if before_bytes:
                    pace.check(before_bytes, url)
                before_bytes = len(chunk)
                yield chunk


class _Pace:
    """Notices a store that answers, but far too slowly ever to be done."""

    def __init__(self, window_s: float, clock: Callable[[], float]) -> None:
        self._window_s = window_s
        self._clock = clock
        self._start_s = clock()
        self._bytes = 0

    def check(self, size_bytes: int, url: str) -> None:
        """Count what came; raises StoreUnreachableError if a whole window brought next to nothing."""
        self._bytes += size_bytes
        now_s = self._clock()
        if now_s - self._start_s < self._window_s:
            return
        if self._bytes < _LEAST_PACE_BYTES:
            raise StoreUnreachableError(f"{url} sent only {self._bytes} bytes in {self._window_s:g} s.")
        self._start_s, self._bytes = now_s, 0


def _open_file(path: Path) -> IO[bytes]:
    """Open a plain file; a pipe or device on a medium would block whoever opens it, or never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a plain file")
    return path.open("rb")


def _client(settings: StoreSettings) -> httpx.Client:
    headers = {"User-Agent": f"edge-agent/{__version__}", "Accept-Encoding": "identity"}
    if settings.bearer_token_file is not None:
        headers["Authorization"] = f"Bearer {_token(Path(settings.bearer_token_file))}"
    try:
        return httpx.Client(
            headers=headers,
            timeout=settings.timeout_s,
            proxy=settings.proxy,
            verify=_tls(settings),
            follow_redirects=True,
            max_redirects=5,
        )
    except (ValueError, httpx.InvalidURL) as error:
        raise SettingsError(
            f"store.proxy is '{settings.proxy}', which is not the URL of a proxy: {error}."
        ) from error


def _tls(settings: StoreSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_bundle)
    except OSError as error:
        raise SettingsError(
            f"store.ca_bundle {settings.ca_bundle} cannot be used: {error.strerror}."
        ) from error
    if settings.client_certificate is not None:
        try:
            context.load_cert_chain(settings.client_certificate, settings.client_key)
        except OSError as error:
            raise SettingsError(
                f"store.client_certificate {settings.client_certificate} cannot be used: {error.strerror}."
            ) from error
    return context


def _token(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"store.bearer_token_file {path} cannot be read: {error}.") from error


def _expected(headers: dict[str, str]) -> tuple[int, ...]:
    """Return the statuses that answer a request with these headers."""
    if "Range" in headers:
        return (200, 206, 416)
    return (200, 304) if "If-None-Match" in headers else (200,)


def _check(response: httpx.Response, url: str, allowed: tuple[int, ...]) -> None:
    status = response.status_code
    if status in (401, 407):
        raise StoreUnreachableError(
            f"The store wants credentials for {url} (HTTP {status}): check store.bearer_token_file, "
            "store.client_certificate and store.proxy."
        )
    if status in (403, 404, 410):
        raise StoreFileMissingError(
            f"The store has no {url} (HTTP {status}): check store.url and the credentials, or publish it again."
        )
    if status not in allowed:
        asked_s = _retry_after_s(response.headers.get("Retry-After", ""))
        when = f" in {asked_s:.0f} s, as it asks" if asked_s else " later"
        raise StoreUnreachableError(f"The store answered HTTP {status} for {url}; trying again{when}.", asked_s)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise StoreUnreachableError(f"The store compresses {url} though it was asked not to: switch that off.")


def _offset(response: httpx.Response, wanted: int) -> int:
    if response.status_code != 206:
        return 0
    given = response.headers.get("Content-Range", "")
    if not given.startswith(f"bytes {wanted}-"):
        raise StoreUnreachableError(
            f"{_shown(str(response.url))} answered a request for bytes {wanted}- with '{given}'."
        )
    return wanted


def _size_bytes(response: httpx.Response, offset: int) -> int | None:
    """Return the length of the file that an answer gives from `offset` on; None where it does not say it."""
    length = response.headers.get("Content-Length", "")
    if "Transfer-Encoding" in response.headers or not length.isdecimal():
        return None
    return offset + int(length)


def _head_bytes(response: httpx.Response) -> int:
    """Return about what a request and the head of its answer took, as HTTP/1.1 writes them."""
    request = response.request
    fields = (*request.headers.raw, *response.headers.raw)
    lines = len(request.method) + len(request.url.raw_path) + len(response.reason_phrase) + 28
    return lines + sum(len(name) + len(value) + 4 for name, value in fields)


def _retry_after_s(value: str) -> float:
    """Return how long a Retry-After header asks to wait; 0 for none, and for one that is not understood."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _is_web_page(response: httpx.Response, start: bytes) -> bool:
    return "text/html" in response.headers.get("Content-Type", "") and start.lstrip()[:1] == b"<"


@contextmanager
def _mapping_errors(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise StoreUnreachableError(f"{url} did not answer in time; trying again later.") from error
    except httpx.TooManyRedirects as error:
        raise StoreUnreachableError(f"{url} redirects in circles: correct store.url.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StoreUnreachableError(f"Cannot get {url}: {error or type(error).__name__}.") from error


def _shown(url: str) -> str:
    """Return the URL without a user name and password, for messages."""
    return re.sub(r"//[^/@]*@", "//", url, count=1)


def _too_long(name: str, max_bytes: int) -> str:
    return f"{name} is longer than the {max_bytes} bytes it may have."


def _digest_tag(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
