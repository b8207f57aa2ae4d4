"""What systemd gives a service and wants to hear from it: sockets, readiness, the watchdog.

Source: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import socket
from collections.abc import Mapping
from typing import Self

from edge_agent.documents.errors import OperatorError

FIRST_DESCRIPTOR = 3


def inherited_sockets(environment: Mapping[str, str], pid: int) -> dict[str, socket.socket]:
    """Return the listening sockets that systemd passed to this process, by `FileDescriptorName=`.

    The descriptors are made close-on-exec. Raises OperatorError if two have the same name.
    """
    if environment.get("LISTEN_PID") != str(pid):
        return {}
    count = int(environment.get("LISTEN_FDS", "0"))
    names = environment.get("LISTEN_FDNAMES", "").split(":") if count else []
    if len(set(names)) != len(names) or len(names) != count:
        raise OperatorError("systemd passed sockets without distinct names; set FileDescriptorName= on each.")
    sockets = {}
    for descriptor, name in enumerate(names, start=FIRST_DESCRIPTOR):
        os.set_inheritable(descriptor, False)
        sockets[name] = socket.socket(fileno=descriptor)
    return sockets


class Notifier:
    """Tells systemd about the service; without systemd it does nothing."""

    def __init__(self, address: str | None, watchdog_s: float | None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s
        """How often `alive` must be called at least, in seconds, or None."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int) -> Self:
        """Read NOTIFY_SOCKET and WATCHDOG_USEC."""
        watchdog_us = environment.get("WATCHDOG_USEC")
        for_us = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        return cls(
            environment.get("NOTIFY_SOCKET"),
            int(watchdog_us) / 1e6 if watchdog_us is not None and for_us else None,
        )

    def ready(self) -> None:
        """The service answers."""
        self._send("READY=1")

    def status(self, sentence: str) -> None:
        """Show a sentence in `systemctl status`."""
        self._send(f"STATUS={sentence}")

    def alive(self) -> None:
        """Reset the watchdog."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The service is going down."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.connect(address)
                sock.send(message.encode())
            except OSError:
                # systemd is being re-executed; the next message will do.
                return
