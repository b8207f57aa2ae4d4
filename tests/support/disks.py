"""Small file systems for tests; mounting needs root, as the tests have in CI."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.agent import wait_until
from support.host import need_root


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a file system of this size, in memory, at a new folder."""
    need_root("mounting a file system")
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        unmount(place)


def unmount(folder: Path) -> None:
    """Unmount a folder, as soon as nobody uses it any more."""
    wait_until(
        lambda: subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0,
        f"{folder} is unmounted",
    )


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """Show a folder read-only, also to root, as a write-protected medium is."""
    need_root("mounting a folder read-only")
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(disk: Path) -> Path:
    """Take all of the space that is left, and return the file that has it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size_bytes in (2**20, 2**12, 1):
            try:
                while file.write(os.urandom(size_bytes)) == size_bytes:
                    pass
            except OSError:
                continue
    return ballast
