"""What the commands share: parsers, the kinds of arguments, and JSON on standard output."""

import argparse
import json
import sys
from typing import Any, Final, NoReturn, TypeAlias

from converters.data import generate
from converters.data.settings import GENERATED
from converters.report.model import plain

PROGRAM: Final = "edge-convert"
LAYERS: Final = 10
"""Layers that are shown unless told otherwise."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that leads to the right help."""

    def error(self, message: str) -> NoReturn:
        """Write one sentence and leave with exit code 2."""
        self.exit(2, f"{PROGRAM}: {message}; see '{self.prog} --help'.\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown options here, where it is known to which command they were given."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"'{unknown[0]}' is no option of this command")
        return known, unknown


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(commands: Commands, name: str, summary: str, examples: str) -> Parser:
    """Add a command whose help ends with examples."""
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


def add_generated(parser: Parser) -> None:
    """Add the options that say what samples to generate without data."""
    parser.add_argument(
        "--range",
        type=value_range,
        action="append",
        default=[],
        metavar="NAME=LOW:HIGH",
        help="values to generate for an input without --data (default: floats 0:1, integers 0:255)",
    )
    parser.add_argument(
        "--shape",
        type=shape,
        action="append",
        default=[],
        metavar="NAME=1,3,48,320",
        help="shape to generate where dimensions are free (default: 1 for the first, "
        f"{generate.FREE_DIMENSION} for others)",
    )
    parser.add_argument(
        "--samples",
        type=count,
        default=GENERATED,
        metavar="N",
        help="how many to generate without --data (default: %(default)s)",
    )


def add_layers(parser: Parser) -> None:
    """Add the option that says how many layers to show."""
    parser.add_argument(
        "--layers",
        type=layers,
        default=LAYERS,
        metavar="N|all",
        help="how many layers to show, the largest first; JSON has all (default: %(default)s)",
    )


def print_json(content: object) -> None:
    """Write JSON with a line feed to standard output; null stands for infinity and NaN, which JSON lacks."""
    sys.stdout.write(json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def words(text: str) -> list[str]:
    """Read words between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def count(text: str) -> int:
    """Read a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' should be a whole number, at least 1")
    return int(text)


def layers(text: str) -> int | None:
    """Read a number of layers, or None for `all`."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' should be a number or 'all'")
    return int(text)


def non_negative(text: str) -> float:
    """Read a finite number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' should be a number, 0 or more")
    return number


def value_range(text: str) -> tuple[str, tuple[float, float]]:
    """Read `NAME=LOW:HIGH`."""
    name, _, bounds = text.rpartition("=")
    low, _, high = bounds.partition(":")
    try:
        values = (float(low), float(high))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' should look like NAME=0:255") from None
    if not name or not values[0] <= values[1]:
        raise argparse.ArgumentTypeError(f"'{text}' should look like NAME=0:255, the lower bound first")
    return name, values


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read `NAME=1,3,48,320`."""
    name, _, sizes = text.rpartition("=")
    try:
        sized = tuple(int(size) for size in sizes.split(",")) if sizes else ()
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' should look like NAME=1,3,48,320") from None
    if not name:
        raise argparse.ArgumentTypeError(f"'{text}' should look like NAME=1,3,48,320")
    return name, sized


def shares(text: str) -> tuple[float, ...]:
    """Read numbers between 0 and 1, separated by commas."""
    try:
        found = tuple(float(word) for word in words(text))
    except ValueError:
        found = ()
    if not found or not all(0 < share < 1 for share in found):
        raise argparse.ArgumentTypeError(f"'{text}' should be numbers between 0 and 1, as 0.5,0.8")
    return found
