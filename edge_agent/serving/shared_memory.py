"""System shared memory that tensors are passed in: which regions there are, and reading and writing them.

Regions are read and written by `preadv` and `pwritev`, never mapped: one that shrinks or changes meanwhile
gives an error or other bytes, and can neither end the process nor change what the cache holds.

A region belongs to the user who registered it on the Unix socket, and must be that user's own; nobody else sees
or uses it. Over TCP nobody knows who asks: a region registered there must be the agent's own user's, or open to
everybody (docs/decisions/0012-whose-shared-memory.md).

Source: Triton Inference Server, protocol/extension_shared_memory.md.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import (
    ForbiddenError,
    NotFoundError,
    PayloadTooLargeError,
    RequestError,
    UnavailableError,
)
from edge_agent.documents.settings import SharedMemorySettings
from edge_agent.serving.http_rules import TOO_MANY_BYTES

_FOLDER: Final = Path("/dev/shm")  # noqa: S108 - that is where shm_open keeps them
_LONGEST_NAME: Final = 255
_LARGEST: Final = 2**62
_FOR_EVERYBODY: Final = stat.S_IROTH | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a shared memory file, which is held open."""

    name: str
    key: str
    offset: int
    size_bytes: int
    descriptor: int
    is_writable: bool


class Regions:
    """The registered regions, of every user and of TCP (uid None). For the event loop's thread.

    `max_request_bytes` is what the inputs of one request may take: a file may be larger than the memory, and
    costs its owner nothing where it is empty.
    """

    def __init__(self, settings: SharedMemorySettings, max_request_bytes: int, folder: Path = _FOLDER) -> None:
        self._settings = settings
        self._folder = folder
        self.max_request_bytes = max_request_bytes
        self._regions: dict[tuple[int | None, str], Region] = {}

    @property
    def is_enabled(self) -> bool:
        """Whether regions may be registered at all."""
        return self._settings.enabled

    def register(self, uid: int | None, name: str, key: str, offset: int, size_bytes: int) -> None:
        """Register bytes `offset` to `offset + size_bytes` of the shared memory `key`, as shm_open names it.

        Raises RequestError for a name that is taken, a range that the memory does not have, or too many
        regions, ForbiddenError for memory that is not the user's, NotFoundError for memory that is not there.
        """
        self._check_enabled()
        if not name:
            raise RequestError("A region needs a name in its path, which has at least one character.")
        if (uid, name) in self._regions:
            raise RequestError(
                f"The region '{name}' is registered already; unregister it, or take another name."
            )
        self._check_room(uid)
        if not (0 <= offset <= _LARGEST and 0 < size_bytes <= _LARGEST):
            raise RequestError("A region needs an offset from 0 and a byte_size from 1.")
        descriptor, is_writable = self._open(uid, key)
        size = os.fstat(descriptor).st_size
        if offset + size_bytes > size:
            os.close(descriptor)
            raise RequestError(
                f"The shared memory '{key}' has {size} bytes, fewer than {offset} + {size_bytes}."
            )
        self._regions[uid, name] = Region(name, key, offset, size_bytes, descriptor, is_writable)

    def unregister(self, uid: int | None, name: str | None) -> None:
        """Forget a region, or with None all of this user's; one that is not registered is no error."""
        self._check_enabled()
        for found in [key for key in self._regions if key[0] == uid and name in (None, key[1])]:
            os.close(self._regions.pop(found).descriptor)

    def status(self, uid: int | None, name: str | None) -> list[dict[str, Any]]:
        """Return a region, or with None all of this user's; raises NotFoundError for an unknown one."""
        self._check_enabled()
        regions = (
            [self._find(uid, name)]
            if name is not None
            else [region for (owner, _), region in sorted(self._regions.items(), key=str) if owner == uid]
        )
        return [
            {"name": region.name, "key": region.key, "offset": region.offset, "byte_size": region.size_bytes}
            for region in regions
        ]

    def check(self, uid: int | None, name: str, offset: int, size_bytes: int) -> None:
        """Raise RequestError or NotFoundError unless the user's region has these bytes and may be written."""
        self._writable(uid, name, offset, size_bytes)

    def read(self, uid: int | None, name: str, offset: int, size_bytes: int) -> NDArray[np.uint8]:
        """Return a copy of bytes of a region; raises RequestError where it does not have them (any more)."""
        region = self._range(uid, name, offset, size_bytes)
        content = np.empty(size_bytes, np.uint8)
        view, done = content.data, 0
        while done < size_bytes:
            try:
                count = os.preadv(region.descriptor, [view[done:]], region.offset + offset + done)
            except OSError as error:
                raise _unusable("read", name, error) from error
            if not count:
                raise RequestError(
                    f"The shared memory of region '{name}' has become smaller; register it anew."
                )
            done += count
        return content

    def write(self, uid: int | None, name: str, offset: int, limit_bytes: int, content: memoryview) -> None:
        """Write into a region; raises RequestError where that cannot be, or for more than `limit_bytes`."""
        region = self._writable(uid, name, offset, limit_bytes)
        if content.nbytes > limit_bytes:
            raise RequestError(
                f"An output takes {content.nbytes} bytes, its place in region '{name}' has {limit_bytes}."
            )
        first = region.offset + offset
        # A write past the end would make the memory larger again.
        if first + content.nbytes > os.fstat(region.descriptor).st_size:
            raise RequestError(f"The shared memory of region '{name}' has become smaller; register it anew.")
        done = 0
        while done < content.nbytes:
            try:
                done += os.pwritev(region.descriptor, [content[done:]], first + done)
            except OSError as error:
                raise _unusable("written", name, error) from error

    def close(self) -> None:
        """Let go of all regions."""
        for region in self._regions.values():
            os.close(region.descriptor)
        self._regions.clear()

    def _check_enabled(self) -> None:
        if not self._settings.enabled:
            raise RequestError("Shared memory is switched off; set shared_memory.enabled, or send the tensors.")

    def _check_room(self, uid: int | None) -> None:
        """Raise RequestError if there are too many regions: one user may have half of them, rounded up."""
        count, limit = len(self._regions), self._settings.max_regions
        if count >= limit:
            raise RequestError(
                f"{count} regions are registered, which is the most; unregister some, "
                "or raise shared_memory.max_regions."
            )
        own = sum(owner == uid for owner, _ in self._regions)
        if own >= -(-limit // 2):
            raise RequestError(
                f"{own} regions of yours are registered, which is the most for one user; unregister some, "
                "or raise shared_memory.max_regions, of which one user may have half."
            )

    def _find(self, uid: int | None, name: str) -> Region:
        region = self._regions.get((uid, name))
        if region is None:
            raise NotFoundError(f"There is no shared memory region '{name}' of yours; register it first.")
        return region

    def _range(self, uid: int | None, name: str, offset: int, size_bytes: int) -> Region:
        self._check_enabled()
        region = self._find(uid, name)
        if offset + size_bytes > region.size_bytes:
            raise RequestError(
                f"Region '{name}' has {region.size_bytes} bytes, the tensor's place would end at "
                f"{offset + size_bytes}."
            )
        return region

    def _writable(self, uid: int | None, name: str, offset: int, size_bytes: int) -> Region:
        region = self._range(uid, name, offset, size_bytes)
        if not region.is_writable:
            raise RequestError(
                f"The agent may read region '{name}', but not write outputs into it; let the agent's group "
                "write the shared memory, and register it anew."
            )
        return region

    def _open(self, uid: int | None, key: str) -> tuple[int, bool]:
        """Return a descriptor of the user's shared memory, and whether it may be written."""
        name = key.removeprefix("/")
        if not 1 <= len(name.encode()) <= _LONGEST_NAME or "/" in name or "\0" in name or name in (".", ".."):
            raise RequestError(
                f"'{key}' is no name of shared memory, which is '/' and up to {_LONGEST_NAME} bytes."
            )
        try:
            descriptor, is_writable = _descriptor(self._folder / name)
        except FileNotFoundError as error:
            raise NotFoundError(f"There is no shared memory '{key}'; create it first.") from error
        except OSError as error:
            raise ForbiddenError(
                f"The shared memory '{key}' cannot be used ({error.strerror}); let the agent's "
                "group read and write it."
            ) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _may_use(uid, status):
            os.close(descriptor)
            raise ForbiddenError(f"The shared memory '{key}' is not yours; register your own.")
        return descriptor, is_writable


def _descriptor(path: Path) -> tuple[int, bool]:
    """Open a file, for reading alone where it cannot be written; say which. Raises OSError."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, os.O_RDWR | flags), True
    except FileNotFoundError:
        raise
    except OSError:
        return os.open(path, os.O_RDONLY | flags), False


def _unusable(done: str, name: str, error: OSError) -> RequestError:
    return RequestError(
        f"The shared memory of region '{name}' cannot be {done} ({error.strerror}); allocate all of it, "
        "or send the tensors."
    )


def _may_use(uid: int | None, status: os.stat_result) -> bool:
    """Say whether who asks may have the agent read and write this memory."""
    if uid is None:
        return status.st_uid == os.geteuid() or status.st_mode & _FOR_EVERYBODY == _FOR_EVERYBODY
    return uid in (0, status.st_uid)


class RegionAccess:
    """The regions as the sender of one request may use them.

    `reserve` says whether the server has memory for so many bytes more of the request. `peer_uid` is asked when
    they are first used, and only then: a client that has left before its output is written is still who it was,
    and its connection can no longer tell.
    """

    __slots__ = ("_is_known", "_left_bytes", "_peer_uid", "_regions", "_reserve", "_uid")

    def __init__(
        self, regions: Regions, peer_uid: Callable[[], int | None], reserve: Callable[[int], bool]
    ) -> None:
        self._regions = regions
        self._peer_uid = peer_uid
        self._reserve = reserve
        self._left_bytes = regions.max_request_bytes
        self._uid: int | None = None
        self._is_known = False

    def check(self, name: str, offset: int, size_bytes: int) -> None:
        """See `Regions.check`."""
        self._regions.check(self._owner(), name, offset, size_bytes)

    def read(self, name: str, offset: int, size_bytes: int) -> NDArray[np.uint8]:
        """See `Regions.read`; raises PayloadTooLargeError or UnavailableError where it is too much."""
        if size_bytes > self._left_bytes:
            limit = self._regions.max_request_bytes
            raise PayloadTooLargeError(
                f"The request's inputs in shared memory are larger than {limit} bytes together; send less, "
                "or raise http.max_body_bytes."
            )
        if not self._reserve(size_bytes):
            raise UnavailableError(TOO_MANY_BYTES)
        self._left_bytes -= size_bytes
        return self._regions.read(self._owner(), name, offset, size_bytes)

    def write(self, name: str, offset: int, limit_bytes: int, content: memoryview) -> None:
        """See `Regions.write`."""
        self._regions.write(self._owner(), name, offset, limit_bytes, content)

    def _owner(self) -> int | None:
        if not self._is_known:
            self._uid, self._is_known = self._peer_uid(), True
        return self._uid
