"""The address of an MQTT broker: `mqtt://host[:1883]` or `mqtts://host[:8883]`."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from edge_agent.documents.errors import SettingsError

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is, and whether it is spoken to by TLS."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def broker_address(url: str) -> BrokerAddress:
    """Return the address that a URL names; raises SettingsError for one that names none.

    Credentials have settings of their own, so that a URL with some in it is refused.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    plain = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in _PORTS or not host or port == 0 or not plain:
        raise SettingsError(
            f"'{url}' is no address of a broker; write mqtt://HOST[:PORT] or mqtts://HOST[:PORT], and the user "
            "name and password file in their own settings."
        )
    return BrokerAddress(host, port or _PORTS[parts.scheme], parts.scheme == "mqtts")
