"""Starts the gRPC server where the settings ask for one; imports grpc only then."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.documents.errors import OperatorError
from edge_agent.documents.ipc import Configure
from edge_agent.serving.shared_memory import Regions

if TYPE_CHECKING:
    from edge_agent.serving.http_messages import Application
    from edge_agent.serving.pipeline import Pipeline
    from edge_agent.serving.rpc.server import RpcServer

log = logging.getLogger(__name__)


async def start(
    configure: Configure, pipeline: "Pipeline", application: "Application", regions: Regions
) -> "RpcServer | None":
    """Return a server that accepts calls, or None if none is wanted.

    Raises OperatorError where one is wanted and cannot be had: the package is missing, or a socket is not free.
    """
    settings = configure.grpc
    if settings.tcp_port is None and configure.grpc_socket is None:
        return None
    try:
        from edge_agent.serving.rpc.server import RpcServer
        from edge_agent.serving.rpc.service import Service
    except ImportError as error:
        raise OperatorError(
            f"gRPC is set and cannot be imported ({error}); pip install 'edge-inference-agent[grpc]', or leave "
            "grpc out of the settings."
        ) from error
    server = RpcServer(Service(pipeline, application, regions), configure.http)
    addresses = []
    try:
        if configure.grpc_socket is not None:
            addresses.append(server.listen_unix(Path(configure.grpc_socket), configure.http))
        if settings.tcp_port is not None:
            addresses.append(server.listen_tcp(settings))
    except OperatorError:
        await server.stop(0)
        raise
    await server.start()
    log.info("gRPC is served on %s", " and ".join(addresses))
    return server
