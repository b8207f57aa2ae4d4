"""Options that several commands share."""

import argparse
import os
import re
from pathlib import Path

from edge_agent.documents.plan import BatchingPlan
from edge_agent.documents.settings_file import Loaded, load


def add_config(parser: argparse.ArgumentParser) -> None:
    """Let the caller name the settings file."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings file; conf.d/*.toml beside it and EDGE_AGENT_* go over it "
        "(default: /etc/edge-agent/config.toml for root, else the user's)",
    )


def load_settings(args: argparse.Namespace) -> Loaded:
    """Read the settings that the caller means; raises SettingsError."""
    return load(args.config, os.environ)


def positive(text: str) -> int:
    """Read a whole number of at least 1, as an argparse type."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """Read a whole number of at least 0, as an argparse type."""
    return _at_least(0, text)


def seconds(text: str) -> float:
    """Read a duration of at least 0.1 s, as an argparse type."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.1 <= number <= 86400:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds from 0.1 to 86400")
    return number


def batch(text: str) -> BatchingPlan:
    """Read `N` or `N:DELAY_US`, how requests are run together, as an argparse type."""
    found = re.fullmatch(r"([0-9]{1,5})(?::([0-9]{1,7}))?", text)
    size, delay_us = (int(found[1]), int(found[2] or 0)) if found else (0, 0)
    if not 2 <= size <= 65_536 or delay_us > 1_000_000:
        raise argparse.ArgumentTypeError(f"'{text}' is not N or N:DELAY_US, such as 8 or 8:2000")
    return BatchingPlan(size, delay_us)


def _at_least(low: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if number < low:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least {low}")
    return number
