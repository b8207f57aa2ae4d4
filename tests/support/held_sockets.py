"""Sockets that outlive the supervisor, as systemd holds them: bound here and passed to each of its lives.

As a program, `held_sockets.py DESCRIPTOR COMMAND…`, it becomes a command that is given one as systemd gives it.
"""

import os
import socket
import sys
from pathlib import Path

BACKLOG = 4096


def hold(path: Path) -> socket.socket:
    """Listen on a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(BACKLOG)
    return sock


def wrapper(sock: socket.socket) -> tuple[str, ...]:
    """Return the command that runs another with the socket as systemd's `infer`."""
    return (sys.executable, "-S", __file__, str(sock.fileno()))


def main() -> None:
    os.dup2(int(sys.argv[1]), 3)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "infer"}
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
