"""`init`, `publish`, `list` and `serve`: a store and what is in it."""

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from edge_agent.documents.errors import RequestError
from edge_fleet import show
from edge_fleet.command_parser import add_command
from edge_fleet.commands.options import add_keys, now, open_keys, open_repository
from edge_fleet.publish import publish, read_package
from edge_fleet.static_server import StaticServer


def add_store_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    _add_init(commands)
    _add_publish(commands)
    _add_list(commands)
    _add_serve(commands)


def _add_init(commands: Any) -> None:
    example = """\
  edge-fleet init store --keys ~/fleet-keys
  edge-fleet init s3://bucket/store --threshold 2 --keys ~/fleet-keys    root.a.pem and root.b.pem are there"""
    parser = add_command(commands, "init", _init, "make an empty store, and the keys that sign it", example)
    parser.add_argument(
        "--threshold",
        type=int,
        default=1,
        metavar="N",
        help="how many of the folder's keys of root must sign the next root (default: %(default)s)",
    )
    add_keys(parser, creates=True)


def _add_publish(commands: Any) -> None:
    example = "  edge-fleet publish store build/digits-1 build/magika-2 --keys ~/fleet-keys"
    parser = add_command(commands, "publish", _publish, "sign packages and put them into the store", example)
    parser.add_argument(
        "packages", type=Path, nargs="+", metavar="PACKAGE", help="folder made by edge-convert build"
    )
    parser.add_argument(
        "--key", type=Path, metavar="PEM", help="key of the model, instead of m-<name>.pem in the keys folder"
    )
    add_keys(parser, creates=True)


def _add_list(commands: Any) -> None:
    add_command(commands, "list", _list, "show versions, deployments and expiry", "  edge-fleet list store")


def _add_serve(commands: Any) -> None:
    example = "  edge-fleet serve store --port 8100"
    parser = add_command(commands, "serve", _serve, "serve the store by HTTP, for trying things", example)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8100, help="port, 0 for any (default: %(default)s)")


def _init(options: argparse.Namespace) -> show.Created:
    repository = open_repository(options)
    keys = open_keys(options)
    repository.create(keys, now(), options.threshold)
    return show.Created(str(repository.files), str(keys.path), repository.root_file)


def _publish(options: argparse.Namespace) -> show.PublishedAll:
    keys = open_keys(options)
    key = None if options.key is None else keys.open(options.key)
    packages = [read_package(folder) for folder in options.packages]
    total_bytes = sum(file.size_bytes for package in packages for file in package.files.values())
    with show.progress("Uploading", total_bytes, visible=not options.json) as on_bytes:
        published = publish(open_repository(options), packages, keys, now(), key, on_bytes)
    return show.PublishedAll(tuple(published))


def _list(options: argparse.Namespace) -> show.Listing:
    return show.listing(open_repository(options).read(), now())


def _serve(options: argparse.Namespace) -> None:
    repository = open_repository(options)
    repository.read()
    if repository.files.folder is None:
        raise RequestError(f"{repository.files} is not a folder: whoever has that place serves it.")
    signal.signal(signal.SIGTERM, _interrupt)
    with StaticServer(repository.files.folder, options.host, options.port, _log) as server:
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
