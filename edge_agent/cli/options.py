"""Options that several commands share."""

import argparse
import os
from pathlib import Path

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


def _at_least(low: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if number < low:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least {low}")
    return number
