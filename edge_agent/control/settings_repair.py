"""Waits for settings that were broken by an edit to be valid again.

The agent runs on the last valid ones meanwhile. The check is the command line's own, in a child, so that the
supervisor needs no pydantic.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

log = logging.getLogger(__name__)

COMMAND_LINE = "edge_agent.cli.main"
CHECK_INTERVAL_S = 15.0


async def repaired(config: str | None, interval_s: float = CHECK_INTERVAL_S) -> None:
    """Return once `edge-agent config check` finds nothing wrong with this settings file (None: the default)."""
    command = [*_command(), "config", "check", *_config_option(config)]
    while True:
        await asyncio.sleep(interval_s)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            log.warning("The settings cannot be checked: %s", error)
            continue
        if await process.wait() == 0:
            return


def run_again(config: str | None, inherited: Sequence[int]) -> NoReturn:
    """Become `edge-agent run` again, with the sockets that systemd passed."""
    for descriptor in inherited:
        os.set_inheritable(descriptor, True)
    os.execv(sys.executable, [*_command(), "run", *_config_option(config)])  # noqa: S606


def _command() -> list[str]:
    return [sys.executable, "-P", "-m", COMMAND_LINE]


def _config_option(config: str | None) -> list[str]:
    return [] if config is None else ["--config", config]
