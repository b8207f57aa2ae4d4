"""What the disk says where no agent runs. Nothing is changed."""

import argparse
import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edge_agent.cli.launch import lock_holder
from edge_agent.cli.options import load_settings
from edge_agent.control.quarantine import reasons
from edge_agent.control.reporter import Sight, report
from edge_agent.documents.errors import EdgeAgentError, OperatorError, UnavailableError
from edge_agent.documents.messages import Reported, SyncReport
from edge_agent.policy.reconcile import effective
from edge_agent.store import state as state_file
from edge_agent.store.layout import StateLayout, state_layout
from edge_agent.store.state import DeployedState


@contextmanager
def agent_is_down(args: argparse.Namespace, error: UnavailableError) -> Iterator[tuple[StateLayout, float]]:
    """Yield the state folder and the time; raises `error` where there is none, or an agent holds it after all.

    A caller who named a socket means that agent and no other.
    """
    if args.socket is not None:
        raise error
    try:
        layout = state_layout(load_settings(args).settings.paths)
    except EdgeAgentError:
        raise error from None
    try:
        is_here, holder = layout.state.exists(), lock_holder(layout.lock)
    except OSError:
        raise error from None
    if not is_here or holder is not None:
        raise error
    try:
        yield layout, time.time()
    except PermissionError as denied:
        raise OperatorError(
            f"No agent runs here, and {denied.filename} cannot be read; use sudo, or the user that it runs as."
        ) from denied


def reported(args: argparse.Namespace, state: DeployedState) -> Reported:
    """Return what an agent would report that serves nothing, since it does not run."""
    wanted = effective(state.current, state.fallback, reasons(state))
    found = report(
        Sight(
            device=load_settings(args).settings.device.id,
            state=state,
            wanted=wanted,
            serving=None,
            left_out=reasons(state),
            probing=None,
            counts={},
            sync=SyncReport("off"),
            problems=(),
        )
    )
    stopped = tuple(
        dataclasses.replace(one, state="stopped") if one.state == "loading" else one for one in found.versions
    )
    return dataclasses.replace(found, versions=stopped)


def state_of(layout: StateLayout) -> DeployedState:
    """Return the deployed state as it is on the disk; raises OperatorError if it cannot be read."""
    state, problem = state_file.load(layout.state)
    if problem is not None:
        raise OperatorError(problem)
    return state
