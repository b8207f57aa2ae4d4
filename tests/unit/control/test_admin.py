"""The admin socket with real connections."""

import asyncio
import os
import pwd
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.control.admin import LINE_LIMIT_BYTES, AdminServer, Progress
from edge_agent.control.listen import unix_socket
from edge_agent.documents import ipc
from edge_agent.documents.errors import UnavailableError


async def echo(arguments: Mapping[str, Any], actor: str, progress: Progress) -> Any:
    progress(ipc.AdminProgress(message="half", done_bytes=1, total_bytes=2))
    return {"arguments": arguments, "actor": actor}


async def busy(_arguments: Mapping[str, Any], _actor: str, _progress: Progress) -> Any:
    raise UnavailableError("Busy; try again.")


async def broken(_arguments: Mapping[str, Any], _actor: str, _progress: Progress) -> Any:
    raise ZeroDivisionError


def talk(path: Path, *lines: bytes, mode: int = 0o600) -> list[Any]:
    """Send lines on one connection, and return everything that comes back until the server closes it."""

    async def run() -> bytes:
        server = AdminServer({"echo": echo, "busy": busy, "broken": broken})
        await server.start(unix_socket(path, mode, None))
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"".join(lines))
        writer.write_eof()
        try:
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()
            await server.stop()

    return [msgspec.json.decode(line, type=ipc.FromAdmin) for line in asyncio.run(run()).splitlines()]


def request(verb: str, **arguments: Any) -> bytes:
    return msgspec.json.encode(ipc.AdminRequest(verb, arguments)) + b"\n"


def test_progress_comes_before_the_answer_and_the_actor_is_known(tmp_path: Path) -> None:
    progress, answer = talk(tmp_path / "admin.sock", request("echo", a=1))
    assert progress == ipc.AdminProgress(message="half", done_bytes=1, total_bytes=2)
    assert answer.result == {"arguments": {"a": 1}, "actor": pwd.getpwuid(os.getuid()).pw_name}


def test_one_connection_may_ask_again_after_an_error(tmp_path: Path) -> None:
    answers = talk(
        tmp_path / "admin.sock", request("busy"), b"{nonsense\n", request("nothing"), request("echo")
    )
    errors = [answer.error for answer in answers if isinstance(answer, ipc.AdminAnswer)]
    assert errors[0] == "Busy; try again."
    assert errors[1].startswith("The request is malformed")
    assert errors[2] == "No command is named 'nothing'; there are broken, busy, echo."
    assert errors[3] == ""


def test_a_fault_of_our_own_is_told_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [answer] = talk(tmp_path / "admin.sock", request("broken"))
    assert answer.error == "The agent failed at this command; its log says where."
    assert "ZeroDivisionError" in caplog.text


def test_a_request_without_end_is_cut_off(tmp_path: Path) -> None:
    [answer] = talk(tmp_path / "admin.sock", b"x" * (LINE_LIMIT_BYTES + 10))
    assert "longer than" in answer.error


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_turned_away_whatever_the_mode(tmp_path: Path) -> None:
    # Short and outside of pytest's own folders, which another user may not enter.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        path = Path(name) / "admin.sock"

        async def run() -> bytes:
            server = AdminServer({"echo": echo})
            await server.start(unix_socket(path, 0o666, None))
            with socket.socket(socket.AF_UNIX) as client:
                os.seteuid(65534)
                try:
                    client.connect(str(path))
                finally:
                    os.seteuid(0)
                try:
                    return await asyncio.wait_for(asyncio.to_thread(client.recv, 65536), 10)
                finally:
                    await server.stop()

        answer = msgspec.json.decode(asyncio.run(run()), type=ipc.FromAdmin)
    assert isinstance(answer, ipc.AdminAnswer)
    assert "Only root and the agent's own user" in answer.error


def test_a_client_that_goes_away_disturbs_nobody(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"

    async def run() -> None:
        server = AdminServer({"echo": echo})
        await server.start(unix_socket(path, 0o600, None))
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(request("echo")[:7])
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(request("echo"))
        assert await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        await server.stop()

    asyncio.run(run())
