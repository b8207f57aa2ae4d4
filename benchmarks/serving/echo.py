"""A uvloop server of 20 lines that answers so many bytes to so many: the least that an exchange can take."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ECHO = """
import asyncio, socket, sys, uvloop

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.count = transport, 0
    def data_received(self, data):
        self.count += len(data)
        if self.count >= ASKED:
            self.count -= ASKED
            self.transport.write(ANSWER)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(Echo, sock=socket.socket(fileno=int(sys.argv[1])))
    await server.serve_forever()

ASKED, ANSWER = int(sys.argv[2]), b"x" * int(sys.argv[3])
uvloop.run(main())
"""


@contextmanager
def echoing(folder: Path, request: bytes, answer_bytes: int) -> Iterator[Callable[[], object]]:
    """Run an echo on a Unix socket in a folder that is made for it; yield a call that asks it once."""
    folder.mkdir()
    path = folder / "echo.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as connection:
        listener.bind(str(path))
        listener.listen()
        arguments = [str(listener.fileno()), str(len(request)), str(answer_bytes)]
        process = subprocess.Popen([sys.executable, "-c", ECHO, *arguments], pass_fds=[listener.fileno()])
        try:
            connection.connect(str(path))
            yield _exchanging(connection, request, answer_bytes)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


def _exchanging(connection: socket.socket, request: bytes, answer_bytes: int) -> Callable[[], object]:
    def exchange() -> None:
        connection.sendall(request)
        missing = answer_bytes
        while missing:
            data = connection.recv(missing)
            if not data:
                raise ConnectionError("the echo closed the connection")
            missing -= len(data)

    return exchange
