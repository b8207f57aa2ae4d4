"""`edge-agent run`: check the settings, then become the agent."""

import argparse
import os
import sys

from edge_agent.cli.last_settings import recall, try_to_keep
from edge_agent.cli.launch import execute
from edge_agent.cli.options import add_config, load_settings
from edge_agent.cli.output import Output
from edge_agent.documents.errors import SettingsError
from edge_agent.documents.ipc import Launch
from edge_agent.documents.places import this_process_places
from edge_agent.documents.settings_file import state_folder
from edge_agent.store.layout import runtime_layout

DESCRIPTION = """\
Run the agent in the foreground: pull signed versions from the store that the settings name, check them on this
device and serve them to local apps. As a service, systemd runs this command. Where the settings are broken and
valid ones from the same file were used before, those are used, and the problems are reported."""

EXAMPLES = """\
  edge-agent run
  edge-agent run --config /etc/edge-agent/config.toml
  EDGE_AGENT_STORE_URL=https://models.example.org edge-agent run
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Load the settings and execute the agent; does not return unless that fails."""
    launch = prepared(args)
    if args.json:
        Output(as_json=True).record(_as_json(launch))
    execute(launch)


def prepared(args: argparse.Namespace) -> Launch:
    """Return how to start; raises SettingsError when there are no valid settings, not even former ones."""
    places = this_process_places()
    config = (args.config or places.config).absolute()
    named = str(config) if args.config is not None else None
    try:
        settings = load_settings(args).settings
    except SettingsError as error:
        former = recall(config, state_folder(args.config, os.environ, places))
        if former is None:
            raise
        problems = tuple(str(error).splitlines())
        for problem in (*problems, "The last valid settings are used until that is repaired."):
            sys.stderr.write(f"edge-agent: {problem}\n")
        return Launch(settings=former, config=named, problems=problems)
    if problem := try_to_keep(config, settings):
        sys.stderr.write(f"edge-agent: {problem}\n")
    return Launch(settings=settings, config=named)


def _as_json(launch: Launch) -> dict[str, object]:
    layout = runtime_layout(launch.settings.paths)
    return {
        "pid": os.getpid(),
        "device": launch.settings.device.id,
        "state": launch.settings.paths.state,
        "infer_socket": str(layout.infer_socket),
        "admin_socket": str(layout.admin_socket),
        "problems": list(launch.problems),
    }
