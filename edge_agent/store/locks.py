"""Locks between processes, which the kernel gives back when their holder ends, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.documents.errors import StateLockedError
from edge_agent.store.files import mapping_os_errors


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Hold a folder against other processes; raises StateLockedError at once if one has it.

    The folder itself is locked: that needs no space on the disk. It must be a local one, not one of NFS.
    """
    with mapping_os_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateLockedError(
                f"Another process is working in {path}: let it end, or stop the other agent; two agents need "
                "state folders of their own (paths.state)."
            ) from None
        yield
    finally:
        os.close(descriptor)
