"""How every command of `edge-fleet` is added to the parser."""

import argparse
from typing import Any


def add_command(
    commands: Any, name: str, run: Any, summary: str, example: str, store: bool = True
) -> argparse.ArgumentParser:
    """Add a command with its help; most work on a store."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if store:
        parser.add_argument(
            "store", metavar="STORE", help="the store: a folder, or a URL like s3://bucket/store"
        )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--debug", action="store_true", help="on an error, show where in the program it arose")
    parser.set_defaults(run=run)
    return parser
