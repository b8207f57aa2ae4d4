"""Reads the settings: a TOML file, `conf.d/*.toml` beside it, and `EDGE_AGENT_<SECTION>_<KEY>` over both.

Tables are merged, any other value replaces the one before. Every value is checked against the type and the
bounds that `documents.settings` gives; all problems are reported at once, each with its file or variable.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, get_type_hints
from urllib.parse import urlsplit

from pydantic import ConfigDict, TypeAdapter, ValidationError

from edge_agent.documents.allowed import accepts_none, accepts_text, allowed
from edge_agent.documents.broker_checks import broker_problems
from edge_agent.documents.errors import SettingsError
from edge_agent.documents.places import MAX_SOCKET_PATH_BYTES, Places, default_device_id, default_places
from edge_agent.documents.settings import PathSettings, Settings
from edge_agent.documents.windows import windows_problem

PREFIX: Final = "EDGE_AGENT_"
DEFAULT: Final = "default"

SECTIONS: Final[dict[str, type[Any]]] = {item.name: type(item.default) for item in fields(Settings)}
KEYS: Final[dict[str, dict[str, Any]]] = {
    section: get_type_hints(cls, include_extras=True) for section, cls in SECTIONS.items()
}
"""Annotated type of each key, by section."""

_LONGEST_SOCKET_NAME = "infer.sock"
_PATH_KEYS = {
    ("paths", "state"),
    ("paths", "runtime"),
    ("store", "root"),
    ("store", "ca_bundle"),
    ("store", "bearer_token_file"),
    ("store", "client_certificate"),
    ("store", "client_key"),
    *(
        (section, key)
        for section in ("mqtt", "local_mqtt")
        for key in ("password_file", "ca_bundle", "client_certificate", "client_key")
    ),
}
# Kubernetes gives every pod such variables for a Service that is named edge-agent.
_KUBERNETES = re.compile(r"EDGE_AGENT_(SERVICE_(HOST|PORT(_.*)?)|PORT(_.*)?)")
_DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings that are valid and resolved, and where they came from."""

    settings: Settings
    origins: dict[str, str]
    """By `section.key`: `default`, `file:<path>` or `env:<NAME>`; several, joined by ` + `, made a table."""
    files: tuple[Path, ...]
    """The files that were read, in order."""


@dataclass(slots=True)
class _Gathered:
    """What was written, before it is known to be valid."""

    values: dict[tuple[str, str], Any] = field(default_factory=dict)
    origins: dict[tuple[str, str], str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def put(self, section: str, key: str, value: Any, origin: str) -> None:
        """Add a value over those before."""
        before = self.values.get((section, key))
        if isinstance(before, dict) and isinstance(value, dict):
            value = before | value
            origin = f"{self.origins[section, key]} + {origin}"
        self.values[section, key] = value
        self.origins[section, key] = origin


def load(
    config: Path | None = None, environ: Mapping[str, str] | None = None, is_root: bool | None = None
) -> Loaded:
    """Return the settings of this host; raises SettingsError with one sentence a line for each problem.

    A missing default file means defaults; a missing `config` is an error.
    """
    environ = os.environ if environ is None else environ
    places = default_places(environ, os.geteuid() == 0 if is_root is None else is_root)
    gathered = _gather(config, environ, places)
    settings = resolve(_validated(gathered), places)
    gathered.problems += _inconsistencies(settings, gathered)
    if gathered.problems:
        raise SettingsError("\n".join(gathered.problems))
    origins = {
        f"{section}.{key}": gathered.origins.get((section, key), DEFAULT)
        for section in KEYS
        for key in KEYS[section]
    }
    return Loaded(settings, origins, tuple(gathered.files))


def state_folder(config: Path | None, environ: Mapping[str, str], places: Places) -> Path:
    """Return the state folder as far as the settings tell it, broken as they may be otherwise."""
    value = _gather(config, environ, places).values.get(("paths", "state"))
    return Path(value) if isinstance(value, str) and value else places.state


def resolve(settings: Settings, places: Places) -> Settings:
    """Fill in what has no fixed default: the device id, the state folder and the runtime folder."""
    paths = PathSettings(
        settings.paths.state or str(places.state), settings.paths.runtime or str(places.runtime)
    )
    device = replace(settings.device, id=settings.device.id or default_device_id())
    return replace(settings, device=device, paths=paths)


# --- reading ------------------------------------------------------------------------------------------------


def _gather(config: Path | None, environ: Mapping[str, str], places: Places) -> _Gathered:
    gathered = _Gathered()
    _gather_files(gathered, config or places.config, required=config is not None)
    _gather_environment(gathered, environ)
    return gathered


def _gather_files(gathered: _Gathered, config: Path, required: bool) -> None:
    for path, must_exist in _files(gathered, config, required):
        content = _read_toml(gathered, path, must_exist)
        if content is None:
            continue
        gathered.files.append(path)
        for section, table in content.items():
            _gather_table(gathered, path, section, table)


def _files(gathered: _Gathered, config: Path, required: bool) -> Iterator[tuple[Path, bool]]:
    yield config, required
    folder = config.parent / "conf.d"
    try:
        names = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except FileNotFoundError:
        return
    except OSError as error:
        gathered.problems.append(_unreadable(folder, error))
        return
    yield from ((path, True) for path in names)


def _read_toml(gathered: _Gathered, path: Path, required: bool) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            gathered.problems.append(f"There is no settings file {path}; create it or name another.")
    except OSError as error:
        gathered.problems.append(_unreadable(path, error))
    except UnicodeDecodeError:
        gathered.problems.append(f"{path} is not UTF-8 text; save it as UTF-8.")
    except tomllib.TOMLDecodeError as error:
        gathered.problems.append(f"{path} is not valid TOML: {error}.")
    return None


def _gather_table(gathered: _Gathered, path: Path, section: str, table: Any) -> None:
    if section not in KEYS:
        gathered.problems.append(f"{path}: there is no section [{section}]{_nearest(section, KEYS)}")
    elif not isinstance(table, dict):
        gathered.problems.append(f"{path}: '{section}' is a section, write [{section}] and its keys below.")
    else:
        for key, value in table.items():
            if key in KEYS[section]:
                absolute = _absolute(section, key, value, path.parent)
                gathered.put(section, key, absolute, f"file:{path}")
            else:
                hint = _nearest(key, KEYS[section])
                gathered.problems.append(f"{path}: section [{section}] has no key '{key}'{hint}")


def _gather_environment(gathered: _Gathered, environ: Mapping[str, str]) -> None:
    known = {f"{PREFIX}{s}_{k}".upper(): (s, k) for s in KEYS for k in KEYS[s]}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or _KUBERNETES.fullmatch(name):
            continue
        if name not in known:
            gathered.problems.append(f"{name} (environment) is no setting{_nearest(name, known)}")
            continue
        section, key = known[name]
        value = _from_text(environ[name], KEYS[section][key])
        gathered.put(section, key, _absolute(section, key, value, Path.cwd()), f"env:{name}")


def _from_text(text: str, annotation: Any) -> Any:
    """Read a variable as a TOML value, or as plain text where it is none or where text is wanted."""
    try:
        value = tomllib.loads(f"value = {text}") if "\n" not in text else {}
    except tomllib.TOMLDecodeError:
        return text
    parsed = value.get("value", text)
    return text if accepts_text(annotation) and not isinstance(parsed, str) else parsed


def _absolute(section: str, key: str, value: Any, folder: Path) -> Any:
    if (section, key) in _PATH_KEYS and isinstance(value, str) and value:
        return os.path.normpath(folder.absolute() / _expanded(value))
    return value


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user: then it is the name of a file
        return Path(path)


def _unreadable(path: Path, error: OSError) -> str:
    return f"Cannot read {path}: {error.strerror}; check its permissions or run as a user that may read it."


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    """Return a hint that names the closest known word, or all of them where they are few."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f", did you mean '{close[0]}'?"
    return f"; there are {', '.join(known)}." if len(known) <= 24 else "."


# --- checking -----------------------------------------------------------------------------------------------


def _validated(gathered: _Gathered) -> Settings:
    """Return the settings with each valid value in place, and note a problem for each other one."""
    sections: dict[str, dict[str, Any]] = {section: {} for section in KEYS}
    for (section, key), value in gathered.values.items():
        annotation = KEYS[section][key]
        try:
            sections[section][key] = _value(value, annotation)
        except (ValidationError, TypeError):
            gathered.problems.append(
                f"{_where(gathered.origins[section, key])}: {section}.{key} is {_shown(value)}, "
                f"but must be {allowed(annotation)}."
            )
    return Settings(**{section: SECTIONS[section](**values) for section, values in sections.items()})


def _value(value: Any, annotation: Any) -> Any:
    """Check one value strictly; raises ValidationError, or TypeError for one that JSON cannot hold.

    By way of JSON, because strict validation of Python objects takes no list for a tuple.
    """
    if value == "" and accepts_none(annotation):
        return None
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
    return adapter.validate_json(json.dumps(value))


def _inconsistencies(settings: Settings, gathered: _Gathered) -> Iterator[str]:
    """Yield what is wrong although each value by itself has the right type."""

    def where(section: str, key: str) -> str:
        return _where(gathered.origins.get((section, key), DEFAULT))

    store, http = settings.store, settings.http
    if not _DEVICE_ID.fullmatch(settings.device.id):
        yield (
            f"{where('device', 'id')}: device.id is {_shown(settings.device.id)}, but must be 1 to 64 of "
            "letters, digits, '-' and '_'."
        )
    if store.url is not None and not _is_store_url(store.url):
        yield (
            f"{where('store', 'url')}: store.url is {_shown(store.url)}, but must begin with http://, https:// "
            "or file:// and name a host or a folder."
        )
    if store.client_key is not None and store.client_certificate is None:
        yield f"{where('store', 'client_key')}: store.client_key needs store.client_certificate; set both."
    if problem := windows_problem(settings.updates.window):
        yield f"{where('updates', 'window')}: updates.window {problem}."
    for section, key, problem in broker_problems(settings):
        yield f"{where(section, key)}: {section}.{key} {problem}"
    if http.tcp_port and http.tcp_port == http.metrics_port:
        yield (
            f"{where('http', 'metrics_port')}: http.metrics_port and http.tcp_port are both {http.tcp_port}; "
            "give one of them another port."
        )
    if not settings.engines.onnx_providers:
        yield (
            f"{where('engines', 'onnx_providers')}: engines.onnx_providers is empty, but must name at least "
            "one provider, for example ['CPUExecutionProvider']."
        )
    longest = len(os.fsencode(Path(settings.paths.runtime) / _LONGEST_SOCKET_NAME))
    if longest > MAX_SOCKET_PATH_BYTES:
        yield (
            f"{where('paths', 'runtime')}: paths.runtime makes a socket path of {longest} bytes, and Linux "
            f"allows {MAX_SOCKET_PATH_BYTES}; choose a shorter folder."
        )


def _is_store_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.scheme == "file":
        return parts.netloc in ("", "localhost") and parts.path.startswith("/")
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _where(origin: str) -> str:
    kind, _, place = origin.rpartition(" + ")[2].partition(":")
    return f"{place} (environment)" if kind == "env" else place or "Settings"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
