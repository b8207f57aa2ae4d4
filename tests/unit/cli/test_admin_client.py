import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.cli.admin_client import CommandRefusedError, call
from edge_agent.cli.main import main
from edge_agent.documents.errors import OperatorError, UnavailableError
from edge_agent.documents.ipc import AdminProgress

PROGRESS = {"type": "adminprogress", "message": "downloading", "done_bytes": 5, "total_bytes": 10}


def answer(result: Any) -> bytes:
    return json.dumps({"type": "adminanswer", "result": result}).encode() + b"\n"


@contextmanager
def server(path: Path, reply: bytes) -> Iterator[list[bytes]]:
    """What answers one connection with these bytes; yields the requests that came."""
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                requests.append(connection.makefile("rb").readline())
                connection.sendall(reply)

        thread = threading.Thread(target=serve, name="admin stand-in")
        thread.start()
        yield requests
        thread.join(10)


def test_a_call_returns_the_result_and_tells_progress(tmp_path: Path) -> None:
    told: list[AdminProgress] = []
    with server(tmp_path / "s", json.dumps(PROGRESS).encode() + b"\n" + answer({"a": 1})) as requests:
        assert call(tmp_path / "s", "sync", {"wait": True}, told.append) == {"a": 1}
    assert json.loads(requests[0]) == {"verb": "sync", "arguments": {"wait": True}}
    assert [(step.message, step.done_bytes, step.total_bytes) for step in told] == [("downloading", 5, 10)]


def test_the_agents_refusal_keeps_its_sentence_and_exit_code(tmp_path: Path) -> None:
    reply = json.dumps({"type": "adminanswer", "error": "Nothing to go back to.", "exit_code": 2}).encode()
    with (
        server(tmp_path / "s", reply + b"\n"),
        pytest.raises(CommandRefusedError, match=r"Nothing to go back to\.") as caught,
    ):
        call(tmp_path / "s", "rollback")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"", "ended before it answered"),
        (json.dumps(PROGRESS).encode() + b"\n", "ended before it answered"),
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak this agent's protocol"),
        (b'{"type": "other"}\n', "does not speak this agent's protocol"),
        (b"\xff\n", "does not speak this agent's protocol"),
    ],
)
def test_a_strange_server_is_told_in_one_sentence(tmp_path: Path, reply: bytes, says: str) -> None:
    with server(tmp_path / "s", reply), pytest.raises(UnavailableError, match=says):
        call(tmp_path / "s", "status")


def test_a_silent_agent(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(UnavailableError, match="is there but does not answer"):
            call(tmp_path / "s", "status", timeout_s=0.05)


def test_no_agent_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"No agent is running here .* 'edge-agent run'"):
        call(tmp_path / "absent", "status")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale"))
    with pytest.raises(UnavailableError, match="No agent is running here"):
        call(tmp_path / "stale", "status")
    with pytest.raises(UnavailableError, match="Cannot talk to the agent"):
        call(tmp_path / ("x" * 200), "status")


def test_somebody_elses_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(sock: socket.socket, address: str) -> None:  # as root, every socket can be connected to
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("edge_agent.cli.admin_client.socket.socket.connect", refused)
    with pytest.raises(OperatorError, match=r"You may not administer the agent .* use sudo"):
        call(tmp_path / "s", "status")


def test_an_answer_of_another_version_is_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(tmp_path / "s", answer({"reported": {}})):
        assert main(["status", "--socket", str(tmp_path / "s")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("edge-agent: The agent's answer is not what this command line expects")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [("unchanged", 0), ("activated", 0), ("started", 0), ("waiting", 0), ("refused", 1), ("failed", 1)],
)
def test_sync_fails_when_nothing_good_came_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str, code: int
) -> None:
    with server(tmp_path / "s", answer({"status": status, "message": "So it went.", "serial": 3})) as requests:
        words = ["sync", "--no-wait", "--force", "--from", str(tmp_path), "--socket", str(tmp_path / "s")]
        assert main(words) == code
    assert capsys.readouterr().out == "So it went.\n"
    assert json.loads(requests[0])["arguments"] == {
        "wait": False,
        "force": True,
        "now": False,
        "folder": str(tmp_path),
    }
