"""Tells the story of the demo on standard output: numbered steps, the commands as typed, short tables.

Colours only on a terminal; as a log the same text reads well.
"""

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence

TOO_WIDE = 12

BOLD, DIM, GREEN, CYAN = "1", "2", "32", "36"


class Narrator:
    """Prints; every line at once, so that a log shows how far the demo is."""

    def __init__(self) -> None:
        self._in_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._width = min(100, shutil.get_terminal_size((100, 24)).columns)
        self._step = 0

    def step(self, title: str) -> None:
        """Begin the next numbered step."""
        self._step += 1
        heading = f"── {self._step}. {title} "
        self._print("\n" + self._style(heading + "─" * (self._width - len(heading)), BOLD))

    def say(self, text: str) -> None:
        """Explain something in a paragraph."""
        self._print(textwrap.fill(" ".join(text.split()), self._width, break_on_hyphens=False))

    def command(self, words: Sequence[str], note: str = "") -> None:
        """Show a command line that is about to run."""
        self._print(self._style(f"  $ {shlex.join(words)}", CYAN) + (f"   # {note}" if note else ""))

    def output(self, text: str) -> None:
        """Show what a command printed; a row that is only a little too wide is left whole."""
        for line in map(str.rstrip, text.strip("\n").splitlines()):
            if line:
                for part in textwrap.wrap(
                    line,
                    self._width - 4 if len(line) > self._width + TOO_WIDE else len(line),
                    subsequent_indent="    ",
                    drop_whitespace=False,
                ):
                    self._print(self._style(f"    {part.rstrip()}", DIM))

    def good(self, text: str) -> None:
        """State something that was checked."""
        filled = textwrap.fill(" ".join(text.split()), self._width - 2, subsequent_indent="  ")
        self._print(self._style("✓ ", GREEN) + filled)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print columns, numbers to the right."""
        cells = [[str(cell) for cell in row] for row in (header, *rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        is_number = [
            all(isinstance(row[column], (int, float)) for row in rows) for column in range(len(header))
        ]
        for index, row in enumerate(cells):
            line = "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, is_number, strict=True)
            )
            self._print("    " + (self._style(line.rstrip(), BOLD) if index == 0 else line.rstrip()))

    def blank(self) -> None:
        """Leave a line empty."""
        self._print("")

    def _style(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._in_colour else text

    def _print(self, text: str) -> None:
        print(text, flush=True)
