"""The command line of who runs the fleet: `edge-fleet`."""

import argparse
import dataclasses
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from edge_agent import __version__
from edge_agent.documents.errors import EdgeAgentError, RequestError, UnavailableError, unexpected
from edge_fleet import deploy, show
from edge_fleet.broker_options import add_broker_options, broker_settings, parse_seconds, required_broker
from edge_fleet.collector_commands import add_collector_commands
from edge_fleet.command_parser import add_command
from edge_fleet.deploy_options import add_terms, terms
from edge_fleet.keys import PASSPHRASE_VARIABLE, KeyFolder, key_folder, load_key
from edge_fleet.notify import Notified, notify
from edge_fleet.publish import publish, read_package
from edge_fleet.refresh import refresh
from edge_fleet.repository import Repository
from edge_fleet.static_server import StaticServer

_KEYS_VARIABLE = "EDGE_FLEET_KEYS"
_READER_GONE = 141
"""As the shell reports a program that SIGPIPE ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 if it failed, or 2 for what the caller can correct."""
    options = build_parser().parse_args(arguments)
    try:
        _print(options.run(options), options.json)
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _READER_GONE
    except EdgeAgentError as error:
        return _failed(str(error), error.exit_code, options.debug)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _failed(unexpected(error), 1, options.debug)
    return 0


def _print(result: Any, as_json: bool) -> None:
    if result is not None and as_json:
        sys.stdout.write(json.dumps(show.to_json(result), indent=2) + "\n")
    elif result is not None:
        show.show(result)
    sys.stdout.flush()


def _failed(message: str, exit_code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"edge-fleet: {message}\n")
    return exit_code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="edge-fleet",
        description="Keys, signed versions, deployments and results of a fleet of edge agents.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edge-fleet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_init(commands)
    _add_publish(commands)
    _add_deploy(commands)
    _add_notify(commands)
    _add_groups(commands)
    _add_refresh(commands)
    _add_list(commands)
    _add_serve(commands)
    add_collector_commands(commands)
    return parser


_EXAMPLES = f"""\
examples:
  edge-fleet init store --keys ~/fleet-keys
  edge-fleet publish store build/digits-20261122_120000 --keys ~/fleet-keys
  edge-fleet deploy store --model digits=20261122_120000 --keys ~/fleet-keys
  edge-fleet serve store
  edge-fleet collect --mqtt mqtt://broker.example --db fleet.db

Set {_KEYS_VARIABLE} to leave --keys out, and {PASSPHRASE_VARIABLE} to encrypt the keys on disk.
"""


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="KEYS",
        help=f"folder of the private keys, outside the store (${_KEYS_VARIABLE})",
    )


def _add_init(commands: Any) -> None:
    example = "  edge-fleet init store --keys ~/fleet-keys"
    parser = add_command(commands, "init", _init, "make an empty store, and the keys that sign it", example)
    _add_keys(parser)


def _add_publish(commands: Any) -> None:
    example = "  edge-fleet publish store build/digits-1 build/magika-2 --keys ~/fleet-keys"
    parser = add_command(commands, "publish", _publish, "sign packages and put them into the store", example)
    parser.add_argument(
        "packages", type=Path, nargs="+", metavar="PACKAGE", help="folder made by edge-convert build"
    )
    parser.add_argument(
        "--key", type=Path, metavar="PEM", help="key of the model, instead of m-<name>.pem in the keys folder"
    )
    _add_keys(parser)


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
    _add_keys(parser)
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
    _add_keys(parser)


def _add_refresh(commands: Any) -> None:
    example = "  edge-fleet refresh store --keys ~/fleet-keys"
    parser = add_command(commands, "refresh", _refresh, "sign metadata again before it expires", example)
    parser.add_argument("--all", action="store_true", help="every role, with the keys of root and models too")
    _add_keys(parser)


def _add_list(commands: Any) -> None:
    add_command(commands, "list", _list, "show versions, deployments and expiry", "  edge-fleet list store")


def _add_serve(commands: Any) -> None:
    example = "  edge-fleet serve store --port 8100"
    parser = add_command(commands, "serve", _serve, "serve the store by HTTP, for trying things", example)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8100, help="port, 0 for any (default: %(default)s)")


def _init(options: argparse.Namespace) -> show.Created:
    repository = Repository(options.store)
    keys = _keys(options)
    repository.create(keys, _now())
    return show.Created(str(options.store), str(keys.path), str(repository.root_file))


def _publish(options: argparse.Namespace) -> show.PublishedAll:
    keys = _keys(options)
    key = None if options.key is None else load_key(options.key, keys.passphrase)
    packages = [read_package(folder) for folder in options.packages]
    total_bytes = sum(file.size_bytes for package in packages for file in package.files.values())
    with show.uploading(total_bytes, visible=not options.json) as on_bytes:
        published = publish(Repository(options.store), packages, keys, _now(), key, on_bytes)
    return show.PublishedAll(tuple(published))


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
    repository = Repository(options.store)
    deployed = deploy.deploy(repository, _keys(options), options.group, change, _now())
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
    return notify(Repository(options.store).read(), options.group, broker, options.spread_s)


def _groups(options: argparse.Namespace) -> show.GroupList:
    repository = Repository(options.store)
    rules = tuple(map(deploy.parse_rule, options.rule))
    if rules or options.default is not None or options.replace:
        groups = deploy.assign_groups(
            repository, _keys(options), rules, _now(), options.default, options.replace
        )
    else:
        groups = deploy.read_groups(repository.read())
    return show.GroupList(groups)


def _refresh(options: argparse.Namespace) -> Any:
    return refresh(Repository(options.store), _keys(options), _now(), options.all)


def _list(options: argparse.Namespace) -> show.Listing:
    return show.listing(Repository(options.store).read(), _now())


def _serve(options: argparse.Namespace) -> None:
    Repository(options.store).read()
    signal.signal(signal.SIGTERM, _interrupt)
    with StaticServer(options.store, options.host, options.port, _log) as server:
        if options.json:
            sys.stdout.write(json.dumps({"url": server.url}) + "\n")
        else:
            sys.stdout.write(f"Serving {options.store} at {server.url} (Ctrl-C stops).\n")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise ValueError(text)
    return value


_port.__name__ = "port number"  # what argparse calls the type in its message


def _serial(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise RequestError(f"--serial is '{text}': give a whole number, or leave it out.") from error


def _keys(options: argparse.Namespace) -> KeyFolder:
    path = options.keys or os.environ.get(_KEYS_VARIABLE)
    if not path:
        raise RequestError(f"No keys are named: give --keys FOLDER, or set {_KEYS_VARIABLE}.")
    return key_folder(Path(path).expanduser())


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(main())
