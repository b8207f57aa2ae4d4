"""What the kernel knows about the other end of a connection, and the event loop does not tell."""

import asyncio
import os
import select
import socket
import struct
from typing import Final

_CREDENTIALS: Final = struct.Struct("iII")
"""Of SO_PEERCRED: process, user, group; unix(7)."""


def peer_uid(transport: asyncio.BaseTransport) -> int | None:
    """Return the user who made this connection; None over TCP, which knows of none."""
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family != socket.AF_UNIX:
        return None
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid


def has_hung_up(transport: asyncio.BaseTransport) -> bool:
    """Say whether a peer that sends no more will not read any more, either.

    A Unix socket tells the two apart; on TCP a peer that has gone looks like one that has only said all.
    """
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def stop_receiving(transport: asyncio.BaseTransport) -> None:
    """Receive no more, unless something has come already; OSError if the connection is broken.

    A later send of the peer fails on a Unix socket, so that it knows that nobody read it; what came before is
    still read, ahead of the end of file.
    """
    # A socket object of its own, as uvloop's stand-in refuses these calls.
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as peer:
        try:
            peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            peer.shutdown(socket.SHUT_RD)
