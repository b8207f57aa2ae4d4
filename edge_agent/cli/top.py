"""`edge-agent top`: a live view of what is served, how fast, and how it is."""

import argparse
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from edge_agent.cli.admin_client import call
from edge_agent.cli.figures import Figures, Look, figures
from edge_agent.cli.options import positive, seconds
from edge_agent.cli.output import Output
from edge_agent.cli.report import typed
from edge_agent.cli.scrape import Place, fetch, place_of
from edge_agent.cli.screen import Screen, is_drawable
from edge_agent.cli.sockets import add_socket, infer_socket
from edge_agent.cli.status import Status
from edge_agent.cli.top_lines import lines
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.store.layout import RuntimeLayout

DESCRIPTION = """\
Show the models that are served, busiest first: versions, arms, requests and errors a second, the time that half
and 99 % of them stay below, the cache, memory, updates and the link to the fleet, all of it over the last
interval. q or Ctrl-C leaves. Where standard output is no terminal, lines come instead. Without the right to
administer the agent it shows what serving says."""

EXAMPLES = """\
  edge-agent top
  edge-agent top --interval 0.5
  edge-agent top --once
  edge-agent top --json --interval 10 | jq -c '[.requests_per_s, .versions[0].p99_ms]'
  edge-agent top --url http://127.0.0.1:8002
"""

_ANSWER_TIMEOUT_S: Final = 2.0
_DOWN: Final = 1
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument(
        "--interval", type=seconds, default=2.0, metavar="S", help="seconds between two looks (default: 2)"
    )
    often = parser.add_mutually_exclusive_group()
    often.add_argument("--count", type=positive, metavar="N", help="leave after N views (default: go on)")
    often.add_argument("--once", action="store_true", help="show one interval and leave, the same as --count 1")
    parser.add_argument("--url", help="ask for the metrics over TCP, for example http://127.0.0.1:8002")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Look again and again until it is enough; 1 if serving was down at the last look."""
    output = Output(args.json)
    agent = Agent(args)
    count = 1 if args.once else args.count
    try:
        if args.json or args.once or not is_drawable(output.stream):
            return _print(agent, output, args.interval, count)
        return _draw(agent, output, args.interval, count)
    except KeyboardInterrupt:
        # That is how one leaves.
        return 0


class Agent:
    """The agent that is looked at; it may go, and come back elsewhere."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._place: Place | None = place_of(args.url) if args.url else None

    def look(self) -> Look:
        """Ask serving and the supervisor; what does not answer is told in the look."""
        place = self._place or Place(path=_infer_socket(self._args))
        samples, serving_problem = _asked(lambda: fetch(place, _ANSWER_TIMEOUT_S))
        time_s = time.time()
        status, admin_problem = None, ""
        if place.path is not None:
            admin = RuntimeLayout(place.path.parent).admin_socket
            status, admin_problem = _asked(lambda: _status(admin))
        # One that is gone is searched for: an `edge-agent serve` that is started again has another folder.
        self._place = place if self._args.url or samples is not None else None
        return Look(
            time_s=time_s,
            samples=samples,
            status=status,
            serving_problem=serving_problem,
            admin_problem=admin_problem,
            supervisor_bytes=None if status is None else _resident_bytes(status.process.pid),
        )


def _infer_socket(args: argparse.Namespace) -> Path:
    """Return the inference socket, also where the caller names the admin socket beside it, as for `status`."""
    path = infer_socket(args)
    layout = RuntimeLayout(path.parent)
    return layout.infer_socket if path == layout.admin_socket else path


def _status(admin: Path) -> Status:
    return typed(call(admin, "status", timeout_s=_ANSWER_TIMEOUT_S), Status)


def _asked(ask: Callable[[], Any]) -> tuple[Any, str]:
    try:
        return ask(), ""
    except EdgeAgentError as error:
        return None, str(error)


def _resident_bytes(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


def _print(agent: Agent, output: Output, interval_s: float, count: int | None) -> int:
    """Print one view an interval; the first needs two looks, since rates do."""
    before, found = agent.look(), None
    for number in _numbers(count):
        time.sleep(interval_s)
        now = agent.look()
        found, before = figures(now, before), now
        if output.as_json:
            output.record(as_json(found))
        else:
            if number:
                output.line()
            _tell(found, output)
        output.flush()
    return _code(found)


def _tell(found: Figures, output: Output) -> None:
    for line in lines(found):
        output.line(output.style(line.text, line.style) if line.style else line.text)


def _draw(agent: Agent, output: Output, interval_s: float, count: int | None) -> int:
    """Draw on the terminal until the user leaves; the first view, without rates, comes at once."""
    now = agent.look()
    found = figures(now, None)
    with Screen(output.stream) as screen:
        for _ in _numbers(count):
            if not _shown(screen, output, found, interval_s):
                return 0
            before, now = now, agent.look()
            found = figures(now, before)
    _tell(found, output)
    return _code(found)


def _shown(screen: Screen, output: Output, found: Figures, seconds: float) -> bool:
    """Show the figures for so long, also on a terminal whose size changes; False once the user leaves."""
    deadline_s = time.monotonic() + seconds
    while True:
        screen.draw(_styled(found, output, screen.size))
        why = screen.wait(deadline_s - time.monotonic())
        if why in ("time", "quit"):
            return why == "time"


def _styled(found: Figures, output: Output, size: tuple[int, int]) -> list[str]:
    width, height = size
    # The last line stays free: what is written there would scroll some terminals.
    view = lines(found, width, max(1, height - 1))
    return [output.style(line.text, line.style) if line.style else line.text for line in view]


def _numbers(count: int | None) -> Iterator[int]:
    return itertools.count() if count is None else iter(range(count))


def _code(found: Figures | None) -> int:
    return _DOWN if found is not None and found.serving_problem else 0


def as_json(found: Figures) -> dict[str, Any]:
    """Return the figures for a program; the supervisor's own words are left to `edge-agent status --json`."""
    content: dict[str, Any] = asdict(found)
    status = content.pop("status")
    if status is not None:
        reported = status["reported"]
        content["agent"] = {
            "device": reported["device"],
            "serial": reported["serial"],
            "target_serial": reported["target_serial"],
            "sync": reported["sync"],
            "problems": reported["problems"],
            "serving_pid": status["process"]["serving_pid"],
            "restarts": status["process"]["restarts"],
            "link": status["link"]["state"],
        }
    return {name: _rounded(value) for name, value in content.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) and math.isfinite(value) else value
