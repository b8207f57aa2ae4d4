"""The command line of who runs the fleet: `edge-fleet`."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from edge_agent import __version__
from edge_agent.documents.errors import EdgeAgentError, OperatorError, unexpected
from edge_agent.policy.expiry import warnings
from edge_agent.policy.trusted_time import Times
from edge_fleet import show
from edge_fleet.collector_commands import add_collector_commands
from edge_fleet.command_parser import add_command
from edge_fleet.commands.ceremony import add_ceremony_commands
from edge_fleet.commands.keys import add_key_commands
from edge_fleet.commands.options import KEYS_VARIABLE, now
from edge_fleet.commands.rollout import add_rollout_commands
from edge_fleet.commands.store import add_store_commands
from edge_fleet.commands.upkeep import add_upkeep_commands
from edge_fleet.keys import PASSPHRASE_VARIABLE

_READER_GONE = 141
"""As the shell reports a program that SIGPIPE ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 if it failed, or 2 for what the caller can correct."""
    options = build_parser().parse_args(arguments)
    try:
        result = options.run(options)
        _print(result, options.json)
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _READER_GONE
    except EdgeAgentError as error:
        return _failed(str(error), error.exit_code, options.debug)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _failed(unexpected(error), 1, options.debug)
    if not hasattr(result, "warnings"):
        _warn(options)
    return int(getattr(result, "exit_code", 0))


def _print(result: Any, as_json: bool) -> None:
    if result is not None and as_json:
        sys.stdout.write(json.dumps(show.to_json(result), indent=2) + "\n")
    elif result is not None:
        show.show(result)
    sys.stdout.flush()


def _warn(options: argparse.Namespace) -> None:
    """Tell what expires soon in the store that was opened; results that tell it themselves are left out."""
    repository = getattr(options, "repository", None)
    expires = {} if repository is None else repository.expires
    for sentence in warnings({role: time.timestamp() for role, time in expires.items()}, Times(now())):
        sys.stderr.write(f"edge-fleet: warning: {sentence}\n")


def _failed(message: str, exit_code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"edge-fleet: {message}\n")
    return exit_code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="edge-fleet",
        description="Keys, signed versions, deployments and results of a fleet of edge agents.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edge-fleet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_store_commands(commands)
    add_rollout_commands(commands)
    add_upkeep_commands(commands)
    add_key_commands(commands)
    add_ceremony_commands(commands)
    add_collector_commands(commands)
    _add_completion(commands)
    return parser


_EXAMPLES = f"""\
examples:
  edge-fleet init store --keys ~/fleet-keys
  edge-fleet publish store build/digits-20261122_120000 --keys ~/fleet-keys
  edge-fleet deploy store --model digits=20261122_120000 --keys ~/fleet-keys
  edge-fleet serve store
  edge-fleet collect --mqtt mqtt://broker.example --db fleet.db

A store is a folder, or a URL like s3://bucket/store. Set {KEYS_VARIABLE} to leave --keys out, and
{PASSPHRASE_VARIABLE} or --passphrase-file where nobody is there to be asked for the passphrase of the keys.
"""


def _add_completion(commands: Any) -> None:
    example = "  edge-fleet completion bash > ~/.local/share/bash-completion/completions/edge-fleet"
    parser = add_command(commands, "completion", _complete, "print a completion script", example, store=False)
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def _complete(options: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError as error:
        raise OperatorError("Completion scripts are made by shtab; install it: pip install shtab.") from error
    sys.stdout.write(shtab.complete(build_parser(), options.shell) + "\n")


if __name__ == "__main__":
    sys.exit(main())
