"""`edge-agent status`: what the agent runs, for how long, and what is wrong."""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from edge_agent.cli.admin_client import call
from edge_agent.cli.offline import agent_is_down, reported, state_of
from edge_agent.cli.output import Output, duration
from edge_agent.cli.report import event_lines, sync_sentence, typed, version_lines
from edge_agent.cli.sockets import add_socket, admin_socket
from edge_agent.documents.errors import UnavailableError
from edge_agent.documents.messages import BakeReport, BakingVersion, Event, Reported
from edge_agent.store.events_db import read_newest

DESCRIPTION = """\
Show what the agent on this device runs, since when, how the last look at the store went, what is wrong and what
happened last. Works while serving is down. Where no agent runs it says what the disk says, with exit code 1."""

EXAMPLES = """\
  edge-agent status
  edge-agent status --json | jq .reported.versions
  sudo edge-agent status
"""

_EVENTS: Final = 10


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """The agent's processes."""

    pid: int
    uptime_s: float
    serving_pid: int | None
    restarts: int


@dataclass(frozen=True, slots=True)
class SocketStatus:
    """Where apps reach the agent: a path, and addresses or null."""

    infer: str
    http: str | None = None
    metrics: str | None = None


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """A connection to a broker; `since_s` is Unix time, `outbox_events` are not acknowledged by it yet."""

    state: Literal["off", "up", "down"] = "off"
    since_s: float = 0.0
    message: str = ""
    outbox_events: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """The answer to the verb `status`."""

    reported: Reported
    process: ProcessStatus
    sockets: SocketStatus
    events: tuple[Event, ...] = ()
    link: LinkStatus = LinkStatus()
    local_link: LinkStatus = LinkStatus()


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the agent and print its answer."""
    output = Output(args.json)
    try:
        result = call(admin_socket(args), "status")
    except UnavailableError as error:
        return _without_agent(args, error, output)
    output.show(result, lambda: lines(typed(result, Status), output, time.time()))
    return 0


def _without_agent(args: argparse.Namespace, error: UnavailableError, output: Output) -> int:
    """Tell what the disk says, and that no agent runs, which is why the exit code is 1."""
    with agent_is_down(args, error) as (layout, _):
        report = reported(args, state_of(layout))
        events = tuple(read_newest(layout.events, _EVENTS))
    result = {"agent": "down", "reported": msgspec.to_builtins(report), "events": msgspec.to_builtins(events)}
    output.show(result, lambda: _lines_without_agent(str(error), report, events, output))
    return 1


def _lines_without_agent(
    error: str, report: Reported, events: tuple[Event, ...], output: Output
) -> Iterator[str]:
    yield output.style(error, "red")
    yield f"Its state folder says: serial {report.serial} of group {report.group or '-'} served last."
    yield ""
    yield from _versions_and_below(report, events, output)


def lines(status: Status, output: Output, now_s: float) -> Iterator[str]:
    """Yield the status for a person."""
    reported, process, sockets = status.reported, status.process, status.sockets
    serving = f"serving pid {process.serving_pid}" if process.serving_pid else "serving is down"
    restarts = f", restarted {process.restarts} times" if process.restarts else ""
    yield f"Device    {output.style(reported.device, 'bold')}, group {reported.group or '-'}"
    yield (
        f"Agent     {reported.agent_version}, pid {process.pid}, up {duration(process.uptime_s)}; "
        f"{serving}{restarts}"
    )
    yield f"Plan      {_plan(reported)}"
    yield f"Store     {sync_sentence(reported.sync, now_s)}"
    for wait in reported.waits:
        yield f"Waits     {wait.message}"
    for name, link in (("Fleet", status.link), ("App MQTT", status.local_link)):
        if link.state != "off":
            yield f"{name.ljust(9)} {_link(link, now_s)}"
    for address in (sockets.infer, sockets.http and f"http://{sockets.http}"):
        if address:
            yield f"Apps use  {address}"
    if sockets.metrics:
        yield f"Metrics   http://{sockets.metrics}/metrics"
    yield ""
    if reported.bake is not None:
        yield from _bake(reported.bake, now_s)
        yield ""
    yield from _versions_and_below(reported, status.events, output)


def _versions_and_below(reported: Reported, events: tuple[Event, ...], output: Output) -> Iterator[str]:
    yield from version_lines(reported.versions, output)
    sections = (
        ("Problems", "yellow", reported.problems),
        ("Quarantine", "yellow", [f"{one.model} {one.version}: {one.reason}" for one in reported.quarantine]),
        ("Last events", "bold", event_lines(events, output)),
    )
    for title, style, found in sections:
        if shown := list(found):
            yield ""
            yield output.style(title, style)
            yield from (f"  {line}" for line in shown)


def _plan(reported: Reported) -> str:
    if not reported.plan_id:
        return "none yet"
    waiting = f"; serial {reported.target_serial} is not active" if reported.target_serial is not None else ""
    return f"{reported.plan_id}, serial {reported.serial}{waiting}"


def _bake(bake: BakeReport, now_s: float) -> Iterator[str]:
    until = time.strftime("%H:%M:%S", time.localtime(now_s + bake.left_s))
    yield f"Serial {bake.serial} is on trial until {until}, {duration(bake.left_s)} more"
    for found in bake.versions:
        limit = "no limit" if found.max_error_rate is None else f"limit {100 * found.max_error_rate:.3g} %"
        errors = f"{found.requests} requests, error rate {100 * found.error_rate:.3g} % ({limit})"
        yield f"  {found.model} {found.version}: {errors}{_p99(found)}"


def _p99(found: BakingVersion) -> str:
    if found.p99_s is None:
        return ""
    limit = "" if found.max_p99_s is None else f" (limit {1000 * found.max_p99_s:.3g} ms)"
    return f", p99 {1000 * found.p99_s:.3g} ms{limit}"


def _link(link: LinkStatus, now_s: float) -> str:
    since = duration(max(0.0, now_s - link.since_s))
    how = f"connected for {since}" if link.state == "up" else f"not connected for {since}: {link.message}"
    return f"{how}; {link.outbox_events} events wait" if link.outbox_events else how
