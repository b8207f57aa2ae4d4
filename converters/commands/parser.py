"""What the commands' arguments have in common: the parser, and values that one word gives."""

import argparse
from typing import NoReturn

PROGRAM = "edge-convert"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that leads to the right help."""

    def error(self, message: str) -> NoReturn:
        """Write one sentence and leave with exit code 2."""
        self.exit(2, f"{PROGRAM}: {message}; see '{self.prog} --help'.\n")


Commands = argparse._SubParsersAction[Parser]


def command(commands: Commands, name: str, summary: str, examples: str) -> Parser:
    """Add a command with its examples and `--debug`, and return its parser."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="on an error, show where in the program it arose")
    return parser


def words(text: str) -> list[str]:
    """Split at commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def count(text: str) -> int:
    """Read a number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' should be a whole number, at least 1")
    return number


def non_negative(text: str) -> float:
    """Read a finite number, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' should be a number, 0 or more")
    return number


def named_range(text: str) -> tuple[str, tuple[float, float]]:
    """Read NAME=LOW:HIGH."""
    name, _, bounds = text.rpartition("=")
    low, _, high = bounds.partition(":")
    try:
        values = (float(low), float(high))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' should look like NAME=0:255") from None
    if not name or not values[0] <= values[1]:
        raise argparse.ArgumentTypeError(f"'{text}' should look like NAME=0:255, the lower bound first")
    return name, values


def named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read NAME=1,3,48,320; nothing after `=` is the shape of a single value."""
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' should look like NAME=1,3,48,320") from None
    if not name:
        raise argparse.ArgumentTypeError(f"'{text}' should look like NAME=1,3,48,320")
    return name, shape
