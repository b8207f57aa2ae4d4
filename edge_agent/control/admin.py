"""The operator's socket: JSON lines, for root and the agent's own user alone.

A request is one `ipc.AdminRequest`; the answer is any number of `ipc.AdminProgress` and one `ipc.AdminAnswer`.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from edge_agent.control.actors import user_name
from edge_agent.documents import ipc
from edge_agent.documents.errors import EdgeAgentError, NotFoundError, OperatorError

log = logging.getLogger(__name__)

LINE_LIMIT_BYTES = 64 * 1024

Progress = Callable[[ipc.AdminProgress], None]
Verb = Callable[[Mapping[str, Any], str, Progress], Awaitable[Any]]
"""Takes the arguments, the actor (the user's name) and where to tell progress; returns the result."""


class AdminServer:
    """Answers operators; each connection may send any number of requests, one after the other."""

    def __init__(self, verbs: Mapping[str, Verb]) -> None:
        self._verbs = verbs
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Begin to answer on a bound Unix socket."""
        sock.listen(64)
        self._server = await asyncio.start_unix_server(self._connected, sock=sock, limit=LINE_LIMIT_BYTES)

    async def stop(self) -> None:
        """Take no more requests and drop those that still wait."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("admin connection")
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            log.debug("An admin connection ended early.")
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = peer_uid(writer.get_extra_info("socket"))
        if uid not in (0, os.geteuid()):
            _write(writer, _failure(OperatorError("Only root and the agent's own user may administer it.")))
            return
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                _write(writer, _failure(OperatorError(f"A request is longer than {LINE_LIMIT_BYTES} bytes.")))
                return
            if not line:
                return
            answer = await self._answer(line, user_name(uid), lambda progress: _write(writer, progress))
            _write(writer, answer)
            await writer.drain()

    async def _answer(self, line: bytes, actor: str, progress: Progress) -> ipc.AdminAnswer:
        try:
            request = msgspec.json.decode(line, type=ipc.AdminRequest)
            verb = self._verbs.get(request.verb)
            if verb is None:
                known = ", ".join(sorted(self._verbs))
                return _failure(NotFoundError(f"No command is named '{request.verb}'; there are {known}."))
            return ipc.AdminAnswer(result=await verb(request.arguments, actor, progress))
        except EdgeAgentError as error:
            return _failure(error)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _failure(OperatorError(f"The request is malformed: {error}."))
        except Exception:
            log.exception("A command failed")
            return _failure(EdgeAgentError("The agent failed at this command; its log says where."))


def peer_uid(sock: socket.socket) -> int:
    """Return the user id of the process at the other end of a Unix socket."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _failure(error: EdgeAgentError) -> ipc.AdminAnswer:
    return ipc.AdminAnswer(error=str(error), exit_code=error.exit_code)


def _write(writer: asyncio.StreamWriter, message: ipc.AdminProgress | ipc.AdminAnswer) -> None:
    if not writer.is_closing():
        writer.write(msgspec.json.encode(message) + b"\n")
