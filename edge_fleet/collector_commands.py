"""The commands that gather and show what devices tell: collect, status, ab."""

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edge_fleet.broker_options import add_broker_options, parse_seconds, required_broker
from edge_fleet.collect import Progress, Until, collect
from edge_fleet.command_parser import add_command
from edge_fleet.commands.options import open_repository
from edge_fleet.fleet_db import FleetDb
from edge_fleet.reports import Question, Reports, parse_weights, report
from edge_fleet.show_fleet import progress_line
from edge_fleet.status import Filter, FleetStatus, fleet_status

_QUIET_S = 2.0


def add_collector_commands(commands: Any) -> None:
    """Add the commands."""
    _add_collect(commands)
    _add_status(commands)
    _add_ab(commands)


def _add_db(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--db", type=Path, default=Path("fleet.db"), metavar="FILE", help="the database (default: %(default)s)"
    )


def _add_collect(commands: Any) -> None:
    example = "  edge-fleet collect --mqtt mqtts://collector@broker.example --db fleet.db"
    summary = "store what devices publish, until stopped"
    parser = add_command(commands, "collect", _collect, summary, example, store=False)
    _add_db(parser)
    parser.add_argument("--seconds", type=parse_seconds, metavar="N", help="stop after so many seconds")
    parser.add_argument(
        "--once", action="store_true", help=f"stop once nothing has come for {_QUIET_S:g} seconds"
    )
    parser.add_argument(
        "--session-expiry-s",
        type=_parse_expiry,
        default=7 * 86_400,
        metavar="N",
        help="how long the broker keeps messages while no collector runs (default: %(default)s)",
    )
    add_broker_options(parser)


def _parse_expiry(text: str) -> int:
    """Read what MQTT can say: 32 bits."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise ValueError(text)
    return value


_parse_expiry.__name__ = "whole number of seconds"  # what argparse calls the type in its message


def _add_status(commands: Any) -> None:
    example = "  edge-fleet status --db fleet.db --group south --problems"
    summary = "show the devices and what they run"
    parser = add_command(commands, "status", _status, summary, example, store=False)
    _add_db(parser)
    parser.add_argument("--group", help="only devices of this group")
    parser.add_argument("--state", choices=["online", "offline"], help="only devices in this state")
    parser.add_argument("--model", metavar="NAME", help="only devices that have this model")
    parser.add_argument("--problems", action="store_true", help="only devices with a problem")


def _add_ab(commands: Any) -> None:
    example = """\
  edge-fleet ab --db fleet.db --store store                            every experiment, its last epoch
  edge-fleet ab digits --metric correct --weights 1=50,2=50"""
    parser = add_command(commands, "ab", _ab, "compare the arms of experiments", example, store=False)
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="default: all of them")
    _add_db(parser)
    parser.add_argument("--model", metavar="NAME", help="only of this model")
    parser.add_argument("--metric", metavar="NAME", help="only this metric")
    parser.add_argument("--epoch", type=int, metavar="N", help="this epoch, not the last one")
    parser.add_argument("--group", help="only devices of this group")
    parser.add_argument("--control", metavar="ARM", help="compare with this arm (default: the first)")
    parser.add_argument(
        "--by",
        choices=["auto", "device", "bucket"],
        default="auto",
        help="unit of analysis: devices, or buckets of units on each device (default: what fits)",
    )
    parser.add_argument(
        "--store", metavar="STORE", help="read the arms' weights from the deployments of this store"
    )
    parser.add_argument(
        "--weights", type=str, metavar="ARM=W,ARM=W", help="the arms' weights, instead of the store's"
    )
    parser.add_argument(
        "--unit", choices=["request", "key", "device"], help="unit of assignment, with --weights"
    )


def _collect(options: argparse.Namespace) -> Progress | None:
    broker = required_broker(options)
    until = Until(options.seconds, _QUIET_S if options.once else None)
    tell = _tell_json if options.json else _tell_terminal if sys.stderr.isatty() else None
    with _logging_to_stderr(), _signals() as stop, FleetDb.open(options.db) as db:
        done = collect(db, broker, until, options.session_expiry_s, stop.is_set, tell)
    if tell is _tell_terminal:
        sys.stderr.write("\r\x1b[K")
    if not options.json:
        return done
    _tell_json(done)
    return None


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set an event on SIGTERM and SIGINT, so that what is under way is stored and acknowledged first."""
    stop = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    logger, handler = logging.getLogger("edge_fleet"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("edge-fleet: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _tell_json(progress: Progress) -> None:
    sys.stdout.write(json.dumps(msgspec.to_builtins(progress)) + "\n")
    sys.stdout.flush()


def _tell_terminal(progress: Progress) -> None:
    sys.stderr.write(f"\r{progress_line(progress)}\x1b[K")
    sys.stderr.flush()


def _status(options: argparse.Namespace) -> FleetStatus:
    online = None if options.state is None else options.state == "online"
    with FleetDb.read(options.db) as db:
        return fleet_status(db.devices(), Filter(options.group, online, options.model, options.problems))


def _ab(options: argparse.Namespace) -> Reports:
    question = Question(
        experiment=options.experiment,
        model=options.model,
        metric=options.metric,
        epoch=options.epoch,
        group=options.group,
        control=options.control,
        by=options.by,
        weights=None if options.weights is None else parse_weights(options.weights),
        unit=options.unit,
    )
    contents = None if options.store is None else open_repository(options).read()
    with FleetDb.read(options.db) as db:
        return report(db, question, contents)
