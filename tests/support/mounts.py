"""File systems in memory."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.agent import wait_until
from support.host import need_root


@contextmanager
def in_memory(folder: Path, size_mib: int) -> Iterator[Path]:
    """Mount a file system in memory, of a limited size, at a folder that it makes."""
    need_root("mounting a file system")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Unmount a folder as soon as nobody uses it any more."""
    wait_until(
        lambda: subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0,
        f"{folder} is unmounted",
    )
