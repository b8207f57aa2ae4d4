"""`edge-agent completion`: a script that lets a shell complete the commands and their options."""

import argparse
from pathlib import Path
from typing import Any

from edge_agent.cli.output import Output
from edge_agent.documents.errors import OperatorError

DESCRIPTION = "Print a completion script. It needs the small package shtab: pip install shtab"

EXAMPLES = """\
  edge-agent completion bash > ~/.local/share/bash-completion/completions/edge-agent
  edge-agent completion zsh > "${fpath[1]}/_edge-agent"
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def run(args: argparse.Namespace) -> int:
    """Print the script; raises OperatorError where shtab is not installed."""
    try:
        import shtab
    except ImportError as error:
        raise OperatorError("Completion scripts are made by shtab; install it: pip install shtab") from error
    from edge_agent.cli.main import COMMANDS, build_parser

    parser = build_parser(tuple(COMMANDS))
    complete_files(parser, shtab.FILE)
    script = shtab.complete(parser, shell=args.shell)
    Output(args.json).show({"shell": args.shell, "script": script}, script.splitlines)
    return 0


def complete_files(parser: argparse.ArgumentParser, files: Any) -> None:
    """Let every option and argument that takes a path be completed with files, also those of the commands.

    `files` is what shtab wants for that in an action's attribute `complete`.
    """
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                complete_files(command, files)
        elif action.type is Path:
            vars(action)["complete"] = files
