"""Shared memory that a client's large arrays go to the agent by, where the agent takes it.

A region is a file in /dev/shm that belongs to this user and that the group `edge-agent` may read and write; the
agent copies what it needs (docs/decisions/0012-whose-shared-memory.md).
"""

import grp
import mmap
import os
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.client.calls import Place, plain_call
from edge_agent.client.wire import Call
from edge_agent.documents.errors import NotFoundError

SMALLEST_BYTES: Final = 256 * 1024
"""Arrays from this size on go by shared memory: below it the way through the socket is no slower."""

_FOLDER: Final = Path("/dev/shm")  # noqa: S108 - that is where shm_open keeps them
_GROUP: Final = "edge-agent"
_MODE: Final = 0o660
_ALIGNMENT: Final = 64


class Region:
    """A piece of shared memory that is used by one call at a time."""

    def __init__(self, size_bytes: int) -> None:
        """Make one; raises OSError where there is no room for it, or no shared memory."""
        self.name = f"edge-agent-{os.getpid()}-{secrets.token_hex(8)}"
        self.key = f"/{self.name}"
        self.size_bytes = size_bytes
        self.is_registered = False
        self._path = _FOLDER / self.name
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            # Allocated at once: a page that is not there when it is written to would end the process.
            os.posix_fallocate(descriptor, 0, size_bytes)
            with suppress(KeyError, PermissionError):
                os.fchown(descriptor, -1, grp.getgrnam(_GROUP).gr_gid)
            os.fchmod(descriptor, _MODE)
            self._memory = mmap.mmap(descriptor, size_bytes)
        except BaseException:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def place(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Place]:
        """Copy the large inputs into the region; return where each is."""
        places, first = {}, 0
        for name, tensor in inputs.items():
            if not _is_large(tensor):
                continue
            target = np.frombuffer(self._memory, tensor.dtype, tensor.size, first).reshape(tensor.shape)
            np.copyto(target, tensor)
            places[name] = Place(self.name, first, tensor.nbytes)
            first += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        return places

    def close(self) -> None:
        """Remove it; a server that still has it registered keeps what it has open."""
        self._path.unlink(missing_ok=True)
        with suppress(BufferError):
            self._memory.close()


class Memory:
    """The regions of one client. For any thread."""

    def __init__(self, *, is_local: bool) -> None:
        self._is_on = is_local
        self._idle: list[Region] = []
        self._lock = threading.Lock()

    def lend(self, inputs: Mapping[str, NDArray[Any]]) -> Region | None:
        """Return a region with room for the large inputs, None if there are none, or no shared memory."""
        if not self._is_on:
            return None
        size_bytes = sum(
            -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in inputs.values() if _is_large(tensor)
        )
        if not size_bytes:
            return None
        with self._lock:
            for index, region in enumerate(self._idle):
                if region.size_bytes >= size_bytes:
                    return self._idle.pop(index)
        try:
            return Region(1 << (size_bytes - 1).bit_length())
        except OSError:
            self._is_on = False
            return None

    def give_back(self, region: Region) -> None:
        """Keep a region for another call."""
        with self._lock:
            self._idle.append(region)

    def switch_off(self) -> None:
        """Use no shared memory any more: the agent does not take it."""
        self._is_on = False

    def close(self) -> list[Region]:
        """Remove all regions; return those that the agent may have registered."""
        with self._lock:
            regions, self._idle = self._idle, []
        for region in regions:
            region.close()
        return [region for region in regions if region.is_registered]


def is_unknown_region(error: NotFoundError) -> bool:
    """Say whether the agent does not know a region that it was to have."""
    return "shared memory region" in str(error)


def register_call(name: str, key: str, size_bytes: int) -> Call[None]:
    """Return the call that registers a region."""
    body = msgspec.json.encode({"key": key, "offset": 0, "byte_size": size_bytes})
    return plain_call("POST", f"/v2/systemsharedmemory/region/{quote(name, safe='')}/register", body)


def unregister_call(name: str) -> Call[None]:
    """Return the call that unregisters a region."""
    return plain_call("POST", f"/v2/systemsharedmemory/region/{quote(name, safe='')}/unregister", b"{}")


def _is_large(tensor: Any) -> bool:
    return (
        isinstance(tensor, np.ndarray)
        and tensor.nbytes >= SMALLEST_BYTES
        and tensor.dtype.kind in "biuf"
        and tensor.dtype.isnative
    )
