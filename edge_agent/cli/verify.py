"""`edge-agent verify`: whether all that this device keeps is still what was signed."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict

from edge_agent.cli import integrity
from edge_agent.cli.checks import Finding
from edge_agent.cli.doctor import guarded, line
from edge_agent.cli.launch import lock_holder
from edge_agent.cli.options import add_config, load_settings
from edge_agent.cli.output import Output, Progress
from edge_agent.documents.errors import OperatorError
from edge_agent.store.layout import StateLayout, state_layout

DESCRIPTION = """\
Read every file that this device needs and compare it with its signed digest; check the kept metadata from the
trusted root on, the deployed state and the databases. Nothing is changed, and neither the network nor a running
agent is needed. The exit code is 1 if anything is damaged; each line says what to do."""

EXAMPLES = """\
  edge-agent verify
  sudo edge-agent verify --json | jq '.findings[] | select(.outcome != "ok")'
  edge-agent verify || edge-agent sync --force
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Look, and print what was found as soon as it is known; 1 if anything is damaged."""
    output = Output(args.json)
    settings = load_settings(args).settings
    layout = state_layout(settings.paths)
    if not layout.base.is_dir():
        raise OperatorError(f"There is no state folder {layout.base} yet; start the agent, or set paths.state.")
    found = []
    for finding in examine(layout, settings.store.root, Progress(is_wanted=not args.json)):
        found.append(finding)
        if not output.as_json:
            output.line(line(finding, output))
    sound = all(finding.outcome != "fail" for finding in found)
    output.show({"sound": sound, "findings": [asdict(finding) for finding in found]}, list)
    return 0 if sound else 1


def examine(layout: StateLayout, root: str | None, progress: Progress) -> Iterator[Finding]:
    """Yield what every check finds."""
    try:
        next(layout.blobs.iterdir(), None)
        holder = lock_holder(layout.lock)
    except OSError as error:
        raise OperatorError(
            f"{layout.base} cannot be read ({error.strerror}); use sudo, or the user that the agent runs as."
        ) from error
    running = f"runs as process {holder}" if holder is not None else "does not run; this is what the disk says"
    yield Finding("agent", "ok", f"the agent {running}")
    state, findings = integrity.state(layout)
    yield from findings
    yield from guarded("files", lambda: integrity.files(state, layout, progress))
    yield from guarded("trust", lambda: integrity.trust(state, layout, root))
    yield from guarded("data", lambda: integrity.databases(layout))
