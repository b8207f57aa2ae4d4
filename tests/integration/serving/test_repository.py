"""Models are unloaded and loaded again on request, by those who may ask for it."""

import http.client
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edge_agent.client import Client
from edge_agent.documents.errors import NotFoundError
from edge_agent.documents.ipc import ChangeModel, ModelChanged
from edge_agent.documents.settings import HttpSettings
from support.agent import wait_until
from support.serving import ServingProcess, identity_onnx

NOBODY = 65534


def ask(address: tuple[str, int], path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address, timeout=20)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def post(
    serving: ServingProcess, path: str, body: Any = b"", headers: dict[str, str] | None = None
) -> tuple[int, str]:
    status, content = ask(serving.tcp, path, body, headers or {})
    return status, json.loads(content).get("error", "")


class TestOverTcp:
    def test_it_is_refused_unless_it_is_set(self, tmp_path: Path) -> None:
        with ServingProcess(tmp_path) as serving:
            status, message = post(serving, "/v2/repository/models/m/unload")
        assert status == 403
        assert "http.tcp_admin" in message

    def test_it_takes_the_token_and_does_what_the_supervisor_says(self, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text("secret\n")
        settings = HttpSettings(tcp_admin=True, admin_token_file=str(token))
        with ServingProcess(tmp_path / "s", settings) as serving:
            path = "/v2/repository/models/m/unload"
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
                status, message = post(serving, path, headers=headers)
                assert (status, "token" in message) == (403, True)
            bearer = {"Authorization": "Bearer secret"}
            for error, status in (("", 200), ("No such model.", 404)):
                asked = []

                def answer(error: str = error, status: int = status, asked: list[Any] = asked) -> None:
                    message = serving.receive()
                    assert isinstance(message, ChangeModel)
                    asked.append(message)
                    serving.send(ModelChanged(id=message.id, error=error, status=status))

                supervisor = threading.Thread(target=answer)
                supervisor.start()
                assert post(serving, path, headers=bearer) == (status, error)
                supervisor.join()
                assert (asked[0].model, asked[0].load, asked[0].actor) == ("m", False, "tcp")
            status, message = post(serving, path, b'{"parameters": {"config": "{}"}}', bearer)
            assert status == 400
            assert "signed documents" in message
            assert post(serving, path, b"nonsense", bearer)[0] == 400


def test_another_user_may_not_ask_over_the_socket(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with ServingProcess(tmp_path / "s") as serving:
        serving.path.chmod(0o666)
        for folder in serving.path.parents:
            if folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):
                folder.chmod(folder.stat().st_mode | 0o055)
        code = (
            "import os, socket, sys; os.setuid(int(sys.argv[2])); s = socket.socket(socket.AF_UNIX);"
            "s.connect(sys.argv[1]); s.sendall(b'POST /v2/repository/models/m/unload HTTP/1.1\\r\\n"
            "Content-Length: 0\\r\\n\\r\\n'); print(s.recv(9999).decode())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(serving.path), str(NOBODY)],
            capture_output=True,
            text=True,
            check=True,
        )
    assert "403 Forbidden" in done.stdout
    assert "Only root and the agent's own user" in done.stdout


def test_an_agent_leaves_a_model_out_until_it_is_asked_for(tmp_path: Path) -> None:
    model = identity_onnx(tmp_path / "m.onnx")
    other = identity_onnx(tmp_path / "other.onnx")
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "CONFIGURATION_DIRECTORY": str(tmp_path)}
    program = str(Path(sys.executable).parent / "edge-agent")
    command = [program, "serve", str(model), str(other), "--port", "0", "--runtime", str(tmp_path / "run")]
    agent = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    sock = tmp_path / "run" / "infer.sock"
    try:
        with Client(sock) as client:
            wait_until(lambda: sock.exists() and _is_ready(client), "the agent serves")

            def run(*words: str) -> subprocess.CompletedProcess[str]:
                words = (*words, "--socket", str(sock.with_name("admin.sock")))
                return subprocess.run(
                    [program, *words], env=environ, capture_output=True, text=True, check=False
                )

            done = run("unload", "m")
            assert (done.returncode, "is not served until" in done.stdout) == (0, True), done.stderr
            with pytest.raises(NotFoundError, match="the models are: other"):
                client.metadata("m")
            assert client.metadata("other").name == "other"
            assert run("unload", "m").returncode == 0
            done = run("unload", "none")
            assert (done.returncode, "the models are: m, other" in done.stderr) == (2, True)
            assert run("load", "m").returncode == 0
            assert client.metadata("m").name == "m"
    finally:
        agent.terminate()
        agent.wait(30)


def _is_ready(client: Client) -> bool:
    try:
        return client.ready("m")
    except Exception:
        return False
