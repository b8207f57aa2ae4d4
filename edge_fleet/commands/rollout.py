"""`deploy`, `notify` and `groups`: what runs where."""

import argparse
import dataclasses
from typing import Any

from edge_agent.documents.errors import EdgeAgentError, RequestError, UnavailableError
from edge_fleet import deploy, show
from edge_fleet.broker_options import add_broker_options, broker_settings, parse_seconds, required_broker
from edge_fleet.command_parser import add_command
from edge_fleet.commands.options import add_keys, now, open_keys, open_repository
from edge_fleet.deploy_options import add_terms, terms
from edge_fleet.notify import Notified, notify


def add_rollout_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    _add_deploy(commands)
    _add_notify(commands)
    _add_groups(commands)


def _add_deploy(commands: Any) -> None:
    example = """\
  edge-fleet deploy store --model digits=2 --keys ~/fleet-keys
  edge-fleet deploy store --group south --model digits=1:50,2:50 --keys ~/fleet-keys      an A/B test
  edge-fleet deploy store --candidate digits=3 --percentage 10 --keys ~/fleet-keys        a tenth of the devices
  edge-fleet deploy store --percentage 50 --keys ~/fleet-keys                             now half of them"""
    parser = add_command(commands, "deploy", _deploy, "choose what a group of devices runs", example)
    parser.add_argument("--group", default="default", help="group of devices (default: %(default)s)")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=VERSION",
        help="run this version, or several by weight: NAME=V1:50,V2:50; other models stay as they are",
    )
    parser.add_argument("--remove", action="append", default=[], metavar="NAME", help="stop running this model")
    parser.add_argument("--replace", action="store_true", help="run only the models named here")
    parser.add_argument(
        "--candidate",
        action="append",
        default=[],
        metavar="NAME=VERSION",
        help="let a share of the devices run this version",
    )
    parser.add_argument("--percentage", type=float, metavar="N", help="that share, 0 to 100")
    parser.add_argument(
        "--window",
        metavar="TIMES",
        help="activate the candidate only then, '02:00-05:00' or 'sat,sun 00:00-24:00 UTC'; '' for any time",
    )
    parser.add_argument("--no-candidate", action="store_true", help="let all devices run the stable part again")
    parser.add_argument("--serial", default="auto", help="serial of the deployment (default: the next one)")
    parser.add_argument(
        "--bake",
        type=parse_seconds,
        metavar="SECONDS",
        help="how long a device holds new versions against their guardrails (default: as before, else 600)",
    )
    add_terms(parser)
    add_keys(parser)
    parser.add_argument(
        "--notify", action="store_true", help="tell the devices; done by itself if a broker is named"
    )
    _add_spread(parser)
    add_broker_options(parser)


def _add_spread(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spread-s",
        type=parse_seconds,
        default=0.0,
        metavar="N",
        help="seconds over which the devices spread their look at the store (default: at once)",
    )


def _add_notify(commands: Any) -> None:
    example = "  edge-fleet notify store --group south --mqtt mqtts://operator@broker.example --spread-s 600"
    parser = add_command(commands, "notify", _notify, "tell devices to look at the store now", example)
    parser.add_argument("--group", default="default", help="group of devices (default: %(default)s)")
    _add_spread(parser)
    add_broker_options(parser)


def _add_groups(commands: Any) -> None:
    example = """\
  edge-fleet groups store --rule site=ulm,line=3:south --keys ~/fleet-keys
  edge-fleet groups store --rule id=bench-7:lab --keys ~/fleet-keys                      one device alone
  edge-fleet groups store                                                                show them"""
    parser = add_command(commands, "groups", _groups, "map devices to groups by their labels", example)
    parser.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="LABEL=VALUE:GROUP",
        help="first match wins; put in front",
    )
    parser.add_argument("--default", metavar="GROUP", help="group of devices that match no rule")
    parser.add_argument("--replace", action="store_true", help="forget the rules that are there")
    add_keys(parser)


def _deploy(options: argparse.Namespace) -> deploy.Deployed:
    change = deploy.Change(
        models=dict(map(deploy.parse_arms, options.model)),
        remove=frozenset(options.remove),
        replace=options.replace,
        candidate=dict(map(deploy.parse_arms, options.candidate)),
        percentage=options.percentage,
        window=options.window,
        drop_candidate=options.no_candidate,
        bake_s=options.bake,
        serial=_serial(options.serial),
        terms=terms(options),
    )
    if change == deploy.Change():
        raise RequestError("Nothing to deploy: name a version with --model NAME=VERSION.")
    # The broker's settings are checked before anything is signed.
    broker = required_broker(options) if options.notify else broker_settings(options)
    repository = open_repository(options)
    deployed = deploy.deploy(repository, open_keys(options), options.group, change, now())
    if broker is None:
        return deployed
    try:
        notified = notify(repository.read(), options.group, broker, options.spread_s)
    except EdgeAgentError as error:
        raise UnavailableError(
            f"Serial {deployed.after.serial} of group '{options.group}' is deployed, but the devices were not "
            f"told and find it at their next look: {error}"
        ) from error
    return dataclasses.replace(deployed, notified=notified.topic)


def _notify(options: argparse.Namespace) -> Notified:
    broker = required_broker(options)
    return notify(open_repository(options).read(), options.group, broker, options.spread_s)


def _groups(options: argparse.Namespace) -> show.GroupList:
    repository = open_repository(options)
    rules = tuple(map(deploy.parse_rule, options.rule))
    if rules or options.default is not None or options.replace:
        groups = deploy.assign_groups(
            repository, open_keys(options), rules, now(), options.default, options.replace
        )
    else:
        groups = deploy.read_groups(repository.read())
    return show.GroupList(groups)


def _serial(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise RequestError(f"--serial is '{text}': give a whole number, or leave it out.") from error
