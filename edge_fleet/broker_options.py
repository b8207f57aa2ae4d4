"""Which broker the fleet tools talk to: options of the command line, and the environment behind them."""

import argparse
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from edge_agent.documents.errors import NotFoundError, RequestError, SettingsError
from edge_agent.documents.topics import LEVEL, Topics

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_PREFIX = re.compile(rf"{LEVEL.pattern}(/{LEVEL.pattern})*")
_VARIABLES = {
    "mqtt": "EDGE_FLEET_MQTT",
    "mqtt_password_file": "EDGE_FLEET_MQTT_PASSWORD_FILE",
    "mqtt_ca": "EDGE_FLEET_MQTT_CA",
    "mqtt_cert": "EDGE_FLEET_MQTT_CERT",
    "mqtt_key": "EDGE_FLEET_MQTT_KEY",
    "fleet": "EDGE_FLEET_NAME",
    "prefix": "EDGE_FLEET_PREFIX",
}


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """A broker, and the part of its topics that belongs to the fleet."""

    host: str
    port: int
    tls: bool
    topics: Topics
    username: str | None = None
    password: str | None = None
    ca_bundle: Path | None = None
    """None trusts the system's authorities."""
    client_certificate: Path | None = None
    client_key: Path | None = None
    """None looks for the key in the certificate's file."""

    @property
    def address(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"


def add_broker_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `broker_settings` reads."""
    group = parser.add_argument_group("broker (MQTT 5)")
    group.add_argument(
        "--mqtt", metavar="URL", help=f"mqtt://[USER@]HOST[:PORT], or mqtts:// for TLS (${_VARIABLES['mqtt']})"
    )
    files = {
        "--mqtt-password-file": "file with the user's password",
        "--mqtt-ca": "certificates of the authorities to trust, instead of the system's",
        "--mqtt-cert": "client certificate",
        "--mqtt-key": "key of the client certificate",
    }
    for option, text in files.items():
        variable = _VARIABLES[option.strip("-").replace("-", "_")]
        group.add_argument(option, metavar="FILE", help=f"{text} (${variable})")
    group.add_argument(
        "--fleet", metavar="NAME", help=f"the fleet's topic level (${_VARIABLES['fleet']}, default)"
    )
    group.add_argument(
        "--prefix", metavar="TOPIC", help=f"topic levels before the fleet's (${_VARIABLES['prefix']}, edge/v1)"
    )


def broker_settings(
    options: argparse.Namespace, environment: Mapping[str, str] = os.environ
) -> BrokerSettings | None:
    """Return which broker is named by the options, else by the environment; None if there is none.

    Raises RequestError or SettingsError for a value that cannot be used.
    """
    values = {name: getattr(options, name) or environment.get(key) for name, key in _VARIABLES.items()}
    if not values["mqtt"]:
        return None
    url = _parse(values["mqtt"])
    return BrokerSettings(
        host=url.hostname or "",
        port=url.port or _PORTS[url.scheme],
        tls=url.scheme == "mqtts",
        topics=_topics(values["prefix"] or "edge/v1", values["fleet"] or "default"),
        username=None if url.username is None else unquote(url.username),
        password=_password(values["mqtt_password_file"]),
        ca_bundle=_path(values["mqtt_ca"]),
        client_certificate=_path(values["mqtt_cert"]),
        client_key=_path(values["mqtt_key"]),
    )


def required_broker(options: argparse.Namespace) -> BrokerSettings:
    """Return which broker is named; raises RequestError if there is none."""
    settings = broker_settings(options)
    if settings is None:
        raise RequestError(f"No broker is named: give --mqtt mqtt://HOST, or set {_VARIABLES['mqtt']}.")
    return settings


def parse_seconds(text: str) -> float:
    """Read a number of seconds, 0 or more, as an argparse type."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(text)
    return value


parse_seconds.__name__ = "number of seconds"  # what argparse calls the type in its message


def _parse(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        usable = url.scheme in _PORTS and url.hostname and url.port != 0 and url.path in ("", "/")
    except ValueError:  # a port that is no number or out of range, or half an IPv6 address
        usable = False
    if not usable:
        raise RequestError("The broker's address is not valid: write mqtt://HOST, or mqtts://USER@HOST:PORT.")
    if url.password is not None:
        raise RequestError(
            "The broker's address holds a password, which other users of this host could see: put it into a "
            "file and name that with --mqtt-password-file."
        )
    return url


def _topics(prefix: str, fleet: str) -> Topics:
    if not LEVEL.fullmatch(fleet):
        raise RequestError(f"'{fleet}' cannot name a fleet: use letters, digits, '-' and '_', 64 at most.")
    if not _PREFIX.fullmatch(prefix):
        raise RequestError(f"'{prefix}' cannot be a prefix: use levels of letters, digits, '-' and '_'.")
    return Topics(prefix, fleet)


def _password(name: str | None) -> str | None:
    if not name:
        return None
    try:
        return _path_of(name).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The password file {name} cannot be read: {error}.") from error


def _path(name: str | None) -> Path | None:
    if not name:
        return None
    path = _path_of(name)
    if not path.is_file():
        raise NotFoundError(f"{name} is not there: name the file with the certificate or key.")
    return path


def _path_of(name: str) -> Path:
    return Path(name).expanduser()
