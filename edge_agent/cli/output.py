"""What a command prints: for a person, or JSON; colours on a terminal alone, and not with NO_COLOR."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TextIO

_STYLES: Final[Mapping[str, str]] = {
    "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33",
}  # fmt: skip
_BAR_COLUMNS: Final = 30
_USUAL_COLUMNS: Final = 80
_SOON_S: Final = 0.01
"""Before that there is no speed to speak of."""
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


class Output:
    """Standard output of one command."""

    def __init__(self, as_json: bool, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.as_json = as_json
        self.has_colours = has_colours(self.stream)

    def show(self, result: Any, lines: Callable[[], Iterable[str]]) -> None:
        """Print the result as JSON where that is wanted, else the lines that tell it to a person."""
        if self.as_json:
            self.line(json.dumps(result, indent=2, ensure_ascii=False))
        else:
            for line in lines():
                self.line(line)

    def record(self, result: Any) -> None:
        """Print the result as one line of JSON, for a program that goes on afterwards."""
        self.line(json.dumps(result, ensure_ascii=False))

    def line(self, text: str = "") -> None:
        """Print one line."""
        self.stream.write(f"{text}\n")

    def flush(self) -> None:
        """Pass on what was printed, for a reader that waits for it."""
        self.stream.flush()

    def style(self, text: str, style: str) -> str:
        """Return the text in a style, if this output has colours."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.has_colours else text


def has_colours(stream: TextIO) -> bool:
    """Say whether to colour what goes to a stream; see https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Return a plain table, columns two spaces apart."""
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headers, *rows)
    ]


def size(count: int) -> str:
    """Return a number of bytes for a person, `3.1 MiB`."""
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """Return a duration for a person, in its two largest units: `3 d 4 h`, `12 s`."""
    left = max(0, int(seconds))
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def moment(unix_s: float) -> str:
    """Return a Unix time as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))


class Progress:
    """A line on standard error that is rewritten in place; silent unless that is a terminal."""

    def __init__(self, is_wanted: bool = True, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._is_on = is_wanted and self._stream.isatty()
        self._is_dirty = False

    def update(self, message: str, done_bytes: int, total_bytes: int) -> None:
        """Show a message, and how far it is when the total is known."""
        if not self._is_on:
            return
        share = f"  {size(done_bytes)} of {size(total_bytes)}" if total_bytes else ""
        self._stream.write(f"\r\x1b[K{message}{share}")
        self._stream.flush()
        self._is_dirty = True

    def bar(self, share: float, total_bytes: int, elapsed_s: float) -> None:
        """Show as a bar how far something of a known size is."""
        if self._is_on:
            self._stream.write(f"\r\x1b[K{bar_line(share, total_bytes, elapsed_s, _columns(self._stream))}")
            self._stream.flush()
            self._is_dirty = True

    def end(self) -> None:
        """Clear the line."""
        if self._is_dirty:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._is_dirty = False


def bar_line(share: float, total_bytes: int, elapsed_s: float, columns: int) -> str:
    """Return a progress bar that fits a terminal: how far, how fast, how long still; `share` is from 0 to 1."""
    done_bytes = int(share * total_bytes)
    text = f" {100 * share:3.0f}%  {size(done_bytes)} of {size(total_bytes)}"
    if elapsed_s >= _SOON_S and done_bytes > 0:
        left_s = elapsed_s * (total_bytes - done_bytes) / done_bytes
        text += f"  {size(int(done_bytes / elapsed_s))}/s  {duration(left_s)} left"
    room = min(_BAR_COLUMNS, columns - len(text) - 3)
    if room < 1:
        return text.strip()[: max(0, columns - 1)]
    full = round(share * room)
    return f"[{'#' * full}{'.' * (room - full)}]{text}"


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_COLUMNS
    except OSError:
        return _USUAL_COLUMNS
