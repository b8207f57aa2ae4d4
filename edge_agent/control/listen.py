"""The sockets that local apps connect to: bound once by systemd or here, then inherited by serving."""

import errno
import grp
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from edge_agent.documents.errors import OperatorError
from edge_agent.documents.settings import HttpSettings

BACKLOG = 4096
"""Long enough that no client is refused while serving restarts."""


def listening_sockets(
    settings: HttpSettings, infer_path: Path, inherited: Mapping[str, socket.socket]
) -> dict[str, socket.socket]:
    """Return the listening sockets by role: `infer` always, `http` and `metrics` where they are set.

    One that systemd passed under that name is used as it is. Raises OperatorError for a path or port that
    cannot be bound.
    """
    sockets = {name: sock for name, sock in inherited.items() if name in ("infer", "http", "metrics")}
    with ExitStack() as on_error:
        if "infer" not in sockets:
            sock = unix_socket(infer_path, settings.socket_mode, settings.socket_group)
            sockets["infer"] = on_error.enter_context(sock)
        for role, port in (("http", settings.tcp_port), ("metrics", settings.metrics_port)):
            if port is not None and role not in sockets:
                sockets[role] = on_error.enter_context(_tcp_socket(settings.tcp_host, port, role))
        for sock in sockets.values():
            sock.listen(BACKLOG)
        on_error.pop_all()
    return sockets


def unix_socket(path: Path, mode: int, group: str | None) -> socket.socket:
    """Bind a Unix socket with this mode and group, in place of one that nobody listens on."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    umask = os.umask(0o777 & ~mode)
    try:
        sock.bind(str(path))
        path.chmod(mode)
        if group is not None:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        sock.close()
        raise OperatorError(f"http.socket_group names the group '{group}', which does not exist.") from None
    except OSError as error:
        sock.close()
        raise OperatorError(
            f"Cannot listen on {path}: {error.strerror}; check the folder, or set paths.runtime."
        ) from error
    finally:
        os.umask(umask)
    return sock


def _remove_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise OperatorError(f"Cannot use {path}: {error.strerror or error}; remove it.") from error
    raise OperatorError(f"Another process listens on {path}; stop it, or set paths.runtime to another folder.")


def _tcp_socket(host: str, port: int, role: str) -> socket.socket:
    setting = "tcp_port" if role == "http" else "metrics_port"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise OperatorError(f"http.tcp_host is '{host}', which is no address of this host.") from error
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        reason = "it is taken" if error.errno == errno.EADDRINUSE else error.strerror
        raise OperatorError(
            f"Cannot listen on {host} port {port}: {reason}; set http.{setting} to another port."
        ) from error
    return sock
