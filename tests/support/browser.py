"""A real browser without a window: Chromium, which must be in PATH."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
LIMIT_S: Final = 60.0

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    # The browser's own calls home find nobody.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


@dataclass(frozen=True)
class Opened:
    """A page after it was loaded: its document as the browser understood it, and what stands in the console."""

    document: str
    console: tuple[str, ...]


def find() -> str:
    for name in NAMES:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError("These tests need Chromium: apt-get install chromium.")


def open_page(page: Path, profile: Path, width: int = 1280) -> Opened:
    """Load a page; a request that its Content-Security-Policy forbids is a line of the console."""
    done = _run(page, profile, f"--window-size={width},900", "--dump-dom")
    console = tuple(line for line in done.stderr.splitlines() if ":CONSOLE:" in line or "CONSOLE(" in line)
    return Opened(done.stdout, console)


def screenshot(page: Path, profile: Path, target: Path, width: int, height: int, *, dark: bool = False) -> Path:
    scheme = (f"--blink-settings=preferredColorScheme={0 if dark else 1}",)
    _run(page, profile, f"--window-size={width},{height}", f"--screenshot={target}", *scheme)
    return target


def _run(page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find(), *_FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
