"""The gRPC server: its sockets, its limits, and its end."""

import grp
import os
import stat
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from edge_agent.documents.errors import OperatorError
from edge_agent.documents.settings import GrpcSettings, HttpSettings
from edge_agent.serving.rpc.service import Service

MAX_CALLS: Final = 1024
"""Calls at a time, a stream being one; more are answered RESOURCE_EXHAUSTED."""

_PING_S: Final = 120
"""After this long without a sign of a client it is asked for one, so that vanished ones do not stay."""
_PONG_S: Final = 20
_MIN_PING_INTERVAL_S: Final = 10
"""Clients may not ask more often than this."""


class RpcServer:
    """A service on its sockets."""

    def __init__(self, service: Service, http: HttpSettings) -> None:
        self._service = service
        self._server = grpc.aio.server(
            handlers=(service.handlers(),),
            options=(
                ("grpc.max_receive_message_length", http.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                # Without, two processes could share the port and each get some of the calls.
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", _PING_S * 1000),
                ("grpc.keepalive_timeout_ms", _PONG_S * 1000),
                ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_S * 1000),
            ),
            maximum_concurrent_rpcs=MAX_CALLS,
        )

    def listen_tcp(self, settings: GrpcSettings) -> str:
        """Bind the TCP port and return its address; raises OperatorError where that is not possible."""
        host = f"[{settings.tcp_host}]" if ":" in settings.tcp_host else settings.tcp_host
        try:
            port = self._server.add_insecure_port(f"{host}:{settings.tcp_port}")
        except RuntimeError as error:
            raise OperatorError(
                f"Cannot listen for gRPC on {host} port {settings.tcp_port}: it is taken, or no address of "
                "this host; set grpc.tcp_host and grpc.tcp_port to others."
            ) from error
        return f"{host}:{port}"

    def listen_unix(self, path: Path, http: HttpSettings) -> str:
        """Bind a Unix socket with the mode and group of infer.sock, and return its path.

        Raises OperatorError where that is not possible. A socket that a killed process has left is replaced; no
        living one can be there, since the agent has the folder for itself.
        """
        umask = os.umask(0o777 & ~http.socket_mode)
        try:
            if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
                raise OperatorError(f"Cannot listen for gRPC on {path}, which is no socket; remove it.")
            path.unlink(missing_ok=True)
            self._server.add_insecure_port(f"unix:{path}")
            path.chmod(http.socket_mode)
            if http.socket_group is not None:
                os.chown(path, -1, grp.getgrnam(http.socket_group).gr_gid)
        except (OSError, RuntimeError, KeyError) as error:
            raise OperatorError(
                f"Cannot listen for gRPC on {path}; check its folder and http.socket_group."
            ) from error
        finally:
            os.umask(umask)
        return str(path)

    async def start(self) -> None:
        """Accept calls."""
        await self._server.start()

    def open(self) -> None:
        """Begin inferences: there is a plan."""
        self._service.open()

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls, answer those that have begun, and after `grace_s` break off the rest."""
        self._service.stop()
        await self._server.stop(grace_s)
