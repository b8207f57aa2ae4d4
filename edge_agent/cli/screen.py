"""A terminal on which a view is redrawn in place, and that is left as it was found: plain ANSI and termios.

Source: https://invisible-island.net/xterm/ctlseqs/ctlseqs.html (alternate screen 1049, cursor 25, autowrap 7).
"""

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final, Literal, Self, TextIO

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_CLEAR_LINE: Final = "\x1b[K"
_CLEAR_BELOW: Final = "\x1b[J"
_WATCHED: Final = (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)

Why = Literal["time", "key", "resized", "quit"]


def is_drawable(stream: TextIO) -> bool:
    """Say whether a view can be redrawn in place on a stream."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")


class Screen:
    """The terminal of this process, from entering to leaving the context; for the main thread."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._mode: list[Any] | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._signals, self._told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        for number in _WATCHED:
            # The handler does nothing: what counts is the number that comes through the pipe.
            self._handlers[number] = signal.signal(number, _ignore)
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._signals)
        os.close(self._told)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal now."""
        try:
            found = os.get_terminal_size(self._stream.fileno())
        except OSError:
            return 80, 24
        return found.columns or 80, found.lines or 24

    def draw(self, lines: Sequence[str]) -> None:
        """Show lines, which fit, in place of what was shown before; one write, so that nothing flickers."""
        text = "\r\n".join(f"{line}{_CLEAR_LINE}" for line in lines)
        self._stream.write(f"{_HOME}{text}{_CLEAR_BELOW}")
        self._stream.flush()

    def wait(self, seconds: float) -> Why:
        """Return when the time is over, a key was pressed, the size changed, or the user wants to leave."""
        deadline_s = time.monotonic() + seconds
        while (left_s := deadline_s - time.monotonic()) > 0:
            watched = [self._signals] if self._keys is None else [self._signals, self._keys]
            ready, _, _ = select.select(watched, [], [], left_s)
            if self._signals in ready and (why := self._signalled()) is not None:
                return why
            if self._keys is not None and self._keys in ready:
                return self._pressed(self._keys)
        return "time"

    def _signalled(self) -> Why | None:
        numbers = os.read(self._signals, 512)
        if signal.SIGTERM in numbers or signal.SIGHUP in numbers:
            return "quit"
        if signal.SIGTSTP in numbers:
            self._leave()
            os.kill(os.getpid(), signal.SIGSTOP)
            self._enter()
            return "resized"
        return "resized" if signal.SIGWINCH in numbers else None

    def _pressed(self, keys: int) -> Why:
        pressed = os.read(keys, 64)
        if not pressed:
            # The terminal is gone.
            return "quit"
        return "quit" if pressed[:1] in (b"q", b"Q") else "key"

    def _enter(self) -> None:
        if self._keys is not None:
            self._mode = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys, termios.TCSANOW)
        self._stream.write(_ENTER)
        self._stream.flush()

    def _leave(self) -> None:
        # A terminal that was hung up takes nothing any more.
        with suppress(OSError):
            self._stream.write(_LEAVE)
            self._stream.flush()
        with suppress(OSError, termios.error):
            if self._keys is not None and self._mode is not None:
                termios.tcsetattr(self._keys, termios.TCSANOW, self._mode)


def _ignore(number: int, frame: FrameType | None) -> None:
    return
