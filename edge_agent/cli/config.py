"""`edge-agent config`: what the settings are, where each value came from, and whether they are valid."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from edge_agent.cli.options import add_config, load_settings
from edge_agent.cli.output import Output
from edge_agent.documents.errors import SettingsError
from edge_agent.documents.places import this_process_places
from edge_agent.documents.schemas import schema
from edge_agent.documents.settings_file import DEFAULT, Loaded

DESCRIPTION = """\
Show and check the settings. They come from config.toml, then conf.d/*.toml beside it in the order of their
names, then the environment: EDGE_AGENT_<SECTION>_<KEY>. Tables are merged, other values replace those before.

  show    every value and where it came from (the default action)
  check   say whether the settings are valid; 2 if they are not
  path    where settings, state and sockets are looked for
  schema  the JSON Schema of the settings file, for editors"""

EXAMPLES = """\
  edge-agent config show
  edge-agent config check --config ./config.toml
  EDGE_AGENT_HTTP_TCP_PORT=8000 edge-agent config show
  edge-agent config schema > settings.schema.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("action", nargs="?", choices=("show", "check", "path", "schema"), default="show")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Do what is asked; SettingsError tells all problems."""
    output = Output(args.json)
    match args.action:
        case "check":
            return _check(args, output)
        case "path":
            _path(args, output)
        case "schema":
            Output(as_json=True).show(schema("settings"), list)
        case _:
            loaded = load_settings(args)
            output.show(_as_json(loaded), lambda: settings_lines(loaded, output))
    return 0


def settings_lines(loaded: Loaded, output: Output) -> Iterator[str]:
    """Yield the settings as TOML, with the origin of each value as a comment."""
    first = True
    for section, values in _shown(loaded).items():
        yield from [] if first else [""]
        first = False
        yield output.style(f"[{section}]", "bold")
        for key, value in values.items():
            origin = loaded.origins[f"{section}.{key}"]
            text = f"# {key} is not set" if value is None else f"{key} = {toml_value(value, key)}"
            line = f"{text.ljust(48)}  # {origin}"
            yield output.style(line, "dim") if origin == DEFAULT else line


def toml_value(value: Any, key: str) -> str:
    """Return a setting's value as TOML writes it; a file mode in octal digits."""
    if key.endswith("_mode"):
        return f"0o{value:o}"
    if isinstance(value, dict):
        inside = ", ".join(f"{json.dumps(name)} = {json.dumps(item)}" for name, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return json.dumps(value, ensure_ascii=False)


def _check(args: argparse.Namespace, output: Output) -> int:
    try:
        loaded = load_settings(args)
    except SettingsError as error:
        if not args.json:
            raise
        output.show({"valid": False, "problems": str(error).splitlines()}, list)
        return error.exit_code
    files = [str(path) for path in loaded.files]
    read = ", ".join(files) if files else "no file, all defaults"
    output.show({"valid": True, "problems": [], "files": files}, lambda: [f"The settings are valid ({read})."])
    return 0


def _path(args: argparse.Namespace, output: Output) -> None:
    places = this_process_places()
    config = args.config or places.config
    found = {
        "config": str(config),
        "conf_d": str(config.parent / "conf.d"),
        "state": str(places.state),
        "runtime": str(places.runtime),
    }
    output.show(
        found,
        lambda: [
            f"settings   {config}{'' if config.exists() else ' (not there)'}",
            f"then       {config.parent / 'conf.d'}/*.toml",
            f"state      {places.state} unless paths.state is set",
            f"sockets    {places.runtime} unless paths.runtime is set",
        ],
    )


def _as_json(loaded: Loaded) -> dict[str, Any]:
    return {
        "settings": _shown(loaded),
        "origins": loaded.origins,
        "files": [str(path) for path in loaded.files],
    }


def _shown(loaded: Loaded) -> dict[str, dict[str, Any]]:
    """Return the settings without the passwords that a URL may hold."""
    values = asdict(loaded.settings)
    for section, key in (("store", "url"), ("store", "proxy")):
        values[section][key] = hide_password(values[section][key])
    return values


def hide_password(url: str | None) -> str | None:
    """Return the URL with `***` for the password, if it has one."""
    password = urlsplit(url).password if url else None
    return url.replace(f":{password}@", ":***@", 1) if url and password else url
