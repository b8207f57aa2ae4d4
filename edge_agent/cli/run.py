"""`edge-agent run`: check the settings, then become the agent."""

import argparse
import os

from edge_agent.cli.launch import execute
from edge_agent.cli.options import add_config, load_settings
from edge_agent.cli.output import Output
from edge_agent.documents.ipc import Launch
from edge_agent.store.layout import runtime_layout

DESCRIPTION = """\
Run the agent in the foreground: pull signed versions from the store that the settings name, check them on this
device and serve them to local apps. As a service, systemd runs this command."""

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
    settings = load_settings(args).settings
    if args.json:
        layout = runtime_layout(settings.paths)
        started = {
            "pid": os.getpid(),
            "device": settings.device.id,
            "state": settings.paths.state,
            "infer_socket": str(layout.infer_socket),
            "admin_socket": str(layout.admin_socket),
        }
        Output(as_json=True).record(started)
    execute(Launch(settings=settings))
