"""The command line `edge-agent`: finds the command, imports its module alone, and turns errors into one line.

Exit codes: 0 done, 1 it failed, 2 the caller must change something, 130 interrupted by Ctrl-C.
"""

import argparse
import difflib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from edge_agent import __version__
from edge_agent.documents.errors import EdgeAgentError, unexpected

PROGRAM = "edge-agent"
INTERRUPTED = 130
READER_GONE = 141
"""As the shell reports a program that SIGPIPE ended."""

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("serve", "serve model files from this host, for development"),
    "run": ("run", "run the agent: pull signed versions and serve them"),
    "status": ("status", "show what the agent runs, and what is wrong"),
    "top": ("top", "watch models, requests, cache and memory live"),
    "models": ("models", "list the versions on this device"),
    "infer": ("infer", "send one inference request"),
    "sync": ("sync", "look at the store now"),
    "load": ("load", "serve a model again that was unloaded"),
    "unload": ("unload", "serve a model no more, for now"),
    "rollback": ("rollback", "go back to what ran before"),
    "quarantine": ("quarantine", "show, add or release what shall not run here"),
    "gc": ("gc", "remove files that nothing needs"),
    "verify": ("verify", "check that all on this device is what was signed"),
    "events": ("events", "show what happened"),
    "config": ("config", "show and check the settings"),
    "doctor": ("doctor", "check this host and say what to repair"),
    "completion": ("completion", "print a completion script for a shell"),
}
"""Module in `edge_agent.cli` and one-line help of each command."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that leads to the right help."""

    def error(self, message: str) -> NoReturn:
        """Write one sentence and leave with exit code 2."""
        self.exit(2, f"{PROGRAM}: {message}; see '{self.prog} --help'.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = parse(words)
        code = int(args.run(args))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return INTERRUPTED
    except EdgeAgentError as error:
        return _failed(str(error), error.exit_code, words)
    except Exception as error:
        return _failed(unexpected(error), 1, words)
    return code


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words of a command line; exits with 0 for --help and --version and with 2 for a mistake."""
    name = next((word for word in words if not word.startswith("-")), None)
    if name is not None and name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"see '{PROGRAM} --help'."
        build_parser(()).exit(2, f"{PROGRAM}: there is no command '{name}'; {hint}\n")
    args, unknown = build_parser(() if name is None else (name,)).parse_known_args(words)
    if unknown:
        args.parser.error(f"'{unknown[0]}' is no option of this command")
    return args


def build_parser(complete: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; only the commands named in `complete` are imported and have their options."""
    parser = Parser(
        prog=PROGRAM,
        description="Edge Agent pulls signed models from a store and serves them to apps on this host.",
        epilog="Try first:  edge-agent serve model.onnx",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in complete:
            _configure(command, importlib.import_module(f"edge_agent.cli.{module}"))
    return parser


def _configure(parser: argparse.ArgumentParser, module: Any) -> None:
    """Let a command's module describe itself: DESCRIPTION, EXAMPLES, configure(parser) and run(args)."""
    parser.description = module.DESCRIPTION
    parser.epilog = f"examples:\n{module.EXAMPLES}"
    module.configure(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--debug", action="store_true", help="on an error, show where in the program it arose")
    parser.set_defaults(run=module.run, parser=parser)


def _failed(message: str, exit_code: int, words: Sequence[str]) -> int:
    if "--debug" in words:
        traceback.print_exc()
    for line in message.splitlines() or ["failed"]:
        sys.stderr.write(f"{PROGRAM}: {line}\n")
    if "--json" in words:
        sys.stdout.write(json.dumps({"error": message, "exit_code": exit_code}) + "\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
