"""The command line `edge-convert`: thin over `converters.convert` and `converters.inspection.models`.

Exit codes: 0 done, 1 a mistake of this program, 2 the caller must change something, 130 interrupted by Ctrl-C.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from converters.commands import build, compare, inspect, sweep
from converters.commands.arguments import (
    PROGRAM,
    Parser,
    add_command,
    print_json,
)
from converters.errors import missing
from edge_agent import __version__
from edge_agent.documents.errors import EdgeAgentError, unexpected

INTERRUPTED = 130
TERMINATED = 143
READER_GONE = 141
"""As the shell reports a program that SIGPIPE ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = build_parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = int(args.run(args))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{PROGRAM}: interrupted; nothing was written.\n")
        return INTERRUPTED
    except EdgeAgentError as error:
        return _failed(str(error), error.exit_code, args)
    except Exception as error:
        return _failed(unexpected(error), 1, args)
    finally:
        signal.signal(signal.SIGTERM, before)
    return code


def _failed(message: str, exit_code: int, args: argparse.Namespace) -> int:
    if args.debug:
        traceback.print_exc()
    sys.stderr.write(f"{PROGRAM}: {message}\n")
    if getattr(args, "json", False):
        print_json({"error": message, "exit_code": exit_code})
    return exit_code


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog=PROGRAM,
        description="Convert, quantize, check and package models for edge devices.",
        epilog="Each command has examples: edge-convert build --help. The guide is docs/converters.md.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    build.add(commands)
    inspect.add(commands)
    compare.add(commands)
    sweep.add(commands)
    completion = add_command(
        commands,
        "completion",
        "print a completion script",
        f'example:\n  eval "$({PROGRAM} completion bash)"\n',
    )
    completion.add_argument("shell", choices=("bash", "zsh"))
    completion.set_defaults(run=_completion)
    return parser


def _completion(args: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError as error:
        raise missing("shtab") from error
    sys.stdout.write(shtab.complete(build_parser(), args.shell) + "\n")
    return 0


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    # As an exception, so that temporary folders and workers go as they do on Ctrl-C.
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
