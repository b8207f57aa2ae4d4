"""A disk whose power can be cut: a file system of its own in an image on a loop device.

`cut` shuts the file system down without writing its journal: what was not flushed before is gone, as after a
power cut, and whatever uses it from then on gets an error. Only the disk's own cache has no counterpart, since
a flush reaches the image at once.
"""

import fcntl
import os
import struct
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from support.disks import small_disk, unmount
from support.host import lacking, need_program, need_root

SHUTDOWN = 0x8004587D
"""FS_IOC_SHUTDOWN of ext4, XFS_IOC_GOINGDOWN of xfs."""
WITHOUT_JOURNAL = 2
"""Drop the journal in memory, too."""

SIZES_MIB = {"ext4": 64, "xfs": 320}
"""xfs refuses less than 300 MiB; the image is sparse."""
_MAKE = {"ext4": ("e2fsprogs", "-q", "-F"), "xfs": ("xfsprogs", "-q", "-f")}
_CHECK = {"ext4": ("e2fsck", "-f", "-n"), "xfs": ("xfs_repair", "-n")}


class Disk:
    """A file system of one kind, `ext4` or `xfs`, mounted at `folder`; a context manager."""

    def __init__(self, place: Path, kind: str) -> None:
        need_root("cutting a disk's power")
        package, *options = _MAKE[kind]
        make = need_program(f"mkfs.{kind}", package)
        self._check = (need_program(_CHECK[kind][0], package), *_CHECK[kind][1:])
        self.kind = kind
        self._make = (make, *options)
        self._stack = ExitStack()
        self._memory = place / f"{kind}-memory"
        """The image lies in memory, since the host's disk need not be waited for."""
        self.image = self._memory / "image"
        self.folder = place / kind
        self.folder.mkdir(parents=True)
        self.cuts = 0
        self._is_mounted = False

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(small_disk(self._memory, (SIZES_MIB[self.kind] + 8) * 2**20))
            with self.image.open("wb") as file:
                file.truncate(SIZES_MIB[self.kind] * 2**20)
            subprocess.run([*self._make, self.image], check=True, capture_output=True)
            self.mount()
            stack.callback(self._unmount)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def mount(self) -> None:
        """Mount it; what its journal holds is replayed."""
        done = subprocess.run(
            ["mount", "-t", self.kind, "-o", "loop", self.image, self.folder], capture_output=True, check=False
        )
        if done.returncode:
            lacking(f"an {self.kind} image cannot be mounted: {done.stderr.decode().strip()}")
        self._is_mounted = True

    def cut(self) -> int:
        """Cut the power: from now on nothing reaches the image. Return when it began (`time.monotonic_ns`)."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            cut_ns = time.monotonic_ns()
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_JOURNAL))
        finally:
            os.close(descriptor)
        self.cuts += 1
        return cut_ns

    def power_on(self) -> None:
        """Mount it again after a cut, once whoever used it has ended."""
        self._unmount()
        self.mount()

    def check(self) -> None:
        """Fail the test unless the file system itself is in order; mounted before and after."""
        self._unmount()
        done = subprocess.run([*self._check, self.image], capture_output=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr).decode()
        self.mount()

    def _unmount(self) -> None:
        if self._is_mounted:
            unmount(self.folder)
            self._is_mounted = False
