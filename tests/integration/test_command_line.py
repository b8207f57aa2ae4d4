"""The command line against real agents: `edge-agent serve` on real model files, and `edge-agent run`."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pymicro_wakeword
import pytest

from support.agent import AgentProcess, wait_until
from support.models import affine_onnx

EDGE_AGENT = str(Path(sys.executable).parent / "edge-agent")
WAKE_WORD = Path(pymicro_wakeword.__file__).parent / "models" / "okay_nabu.tflite"


@dataclass(frozen=True, slots=True)
class Served:
    """A running `edge-agent serve` and what it printed."""

    process: subprocess.Popen[str]
    environ: dict[str, str]
    printed: str
    log: Path

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [EDGE_AGENT, *words]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=self.environ, timeout=60, check=False
        )

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pasted(self, part: str) -> list[str]:
        """Return the printed commands that contain a part."""
        return [line.strip() for line in self.printed.splitlines() if part in line]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("user")
    (folder / "config").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_AGENT_")}
    return kept | {
        "XDG_RUNTIME_DIR": str(folder),
        # Nobody's settings and sockets but the test's, also for root.
        "CONFIGURATION_DIRECTORY": str(folder / "config"),
        "RUNTIME_DIRECTORY": str(folder / "edge-agent"),
        "STATE_DIRECTORY": str(folder / "state"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[Served]:
    """Two models, one ONNX and one TFLite, served on a free port."""
    folder = tmp_path_factory.mktemp("models")
    model = affine_onnx(folder / "Doubler v1.onnx", 2.0)
    stale = Path(environ["XDG_RUNTIME_DIR"]) / "edge-agent-serve" / "99999999"
    stale.mkdir(parents=True)
    with (folder / "out").open("w") as out, (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                EDGE_AGENT,
                "serve",
                str(model),
                str(WAKE_WORD),
                "--port",
                "0",
                "--grpc-port",
                "0",
                "--threads",
                "1",
            ],
            stdout=out,
            stderr=log,
            text=True,
            env=environ,
        )
    try:
        sock = stale.parent / str(process.pid) / "infer.sock"

        def answers() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            done = subprocess.run(
                [EDGE_AGENT, "infer", "doubler-v1", "--zeros", "--socket", str(sock)],
                capture_output=True,
                env=environ,
                timeout=60,
                check=False,
            )
            return done.returncode == 0

        wait_until(answers, "edge-agent serve answers")
        yield Served(process, environ, (folder / "out").read_text(), folder / "log")
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
    assert code == 0
    assert "Traceback" not in (folder / "log").read_text()
    assert not sock.exists()
    assert not stale.exists()


def test_serve_says_that_it_is_for_development(served: Served) -> None:
    assert "Unsigned, development only." in served.printed
    assert "Serving doubler-v1 (onnx, " in served.printed
    assert "Serving okay-nabu (tflite, " in served.printed


def test_serve_answers_grpc_where_it_says(served: Served) -> None:
    (url,) = (line.strip() for line in served.printed.splitlines() if "grpc://" in line)
    with grpc.insecure_channel(url.removeprefix("grpc://")) as channel:
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        assert ready(b"", timeout=30.0) == b"\x08\x01"


def test_every_printed_command_works(served: Served) -> None:
    commands = served.pasted("curl") if shutil.which("curl") else []
    commands += served.pasted("edge-agent infer")
    assert len(commands) in (2, 6)
    for command in commands:
        done = subprocess.run(
            ["sh", "-c", command],
            capture_output=True,
            text=True,
            env=served.environ,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "error" not in done.stdout
        assert "okay-nabu" in done.stdout or "doubler-v1" in done.stdout


def test_infer_finds_the_one_server_and_takes_inputs_of_every_kind(served: Served, tmp_path: Path) -> None:
    rows = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    np.save(tmp_path / "x.npy", rows)
    np.savez(tmp_path / "x.npz", x=rows)
    (tmp_path / "x.json").write_text(json.dumps({"x": rows.tolist()}))
    for name in ("x.npy", "x.npz", "x.json"):
        answer = served.json("infer", "doubler-v1", "--input", str(tmp_path / name))
        assert answer["outputs"] == [
            {"name": "y", "datatype": "FP32", "shape": [2, 3], "data": [2, 4, 6, 8, 10, 12]}
        ]
        assert (answer["model_name"], answer["model_version"]) == ("doubler-v1", "dev")
    done = served.run("infer", "doubler-v1", "--input", "-", "--top", "2", stdin="[1, 2, 3]")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "y  FP32 [1, 3]", "  [[2. 4. 6.]]", "     6.00000   [2]", "     4.00000   [1]", "",
    ]  # fmt: skip
    url = next(line.strip() for line in served.printed.splitlines() if line.startswith("  http://"))
    assert served.json("infer", "doubler-v1", "--zeros", "--url", url, "--output", "y")["outputs"]


@pytest.mark.parametrize(
    ("words", "stdin", "code", "says"),
    [
        (["infer", "nothing", "--zeros"], None, 2, "nothing"),
        (["infer", "doubler-v1", "--zeros", "--version", "v9"], None, 2, "v9"),
        (["infer", "doubler-v1", "--zeros", "--output", "z"], None, 2, "z"),
        (["infer", "doubler-v1", "--input", "-"], "[[1, 2]]", 2, "takes the shape"),
        (["infer", "doubler-v1", "--input", "-"], "{", 2, "neither .npy, .npz nor JSON"),
        (["infer", "doubler-v1", "--zeros", "--url", "http://127.0.0.1:9"], None, 1, "127.0.0.1"),
        (["infer", "doubler-v1", "--zeros", "--socket", "/nowhere"], None, 1, "/nowhere"),
        (["rollback"], None, 2, "no previous version"),
        (["sync"], None, 2, "no store"),
        (["status", "--socket", "/nowhere"], None, 1, "No agent is running here"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    served: Served, words: list[str], stdin: str | None, code: int, says: str
) -> None:
    done = served.run(*words, stdin=stdin)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("edge-agent: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_status_models_and_events(served: Served) -> None:
    status = served.json("status")
    assert status["process"]["pid"] == served.process.pid
    assert {version["model"] for version in status["reported"]["versions"]} == {"doubler-v1", "okay-nabu"}
    assert served.json("models")["versions"] == served.json("status")["reported"]["versions"]
    assert served.json("events")["events"][0]["type"] == "started"
    for command in ("status", "models"):
        done = served.run(command)
        assert done.returncode == 0, done.stderr
        assert "okay-nabu" in done.stdout
    assert "started" in served.run("events", "-n", "5").stdout


def test_top_joins_what_serving_and_the_supervisor_say(served: Served) -> None:
    tick = served.json("top", "--once", "--interval", "0.1")
    assert {(version["model"], version["state"], version["traffic"]) for version in tick["versions"]} == {
        ("doubler-v1", "serving", 1.0), ("okay-nabu", "serving", 1.0),
    }  # fmt: skip
    assert tick["serving_problem"] == tick["admin_problem"] == ""
    assert tick["agent"]["serving_pid"] == served.json("status")["process"]["serving_pid"]
    assert tick["supervisor_bytes"] > 2**20 < tick["serving_bytes"]
    admin = served.json("status")["sockets"]["infer"].replace("infer.sock", "admin.sock")
    done = served.run("top", "--count", "1", "--interval", "0.1", "--socket", admin)
    assert done.returncode == 0, done.stderr
    for part in ("doubler-v1", "Device ", "Cache ", "supervisor "):
        assert part in done.stdout


def test_doctor_finds_the_server_healthy(served: Served) -> None:
    found = served.json("doctor")
    assert found["healthy"] is True
    outcomes = {finding["check"]: finding["outcome"] for finding in found["findings"]}
    assert outcomes["agent"] == outcomes["serving"] == outcomes["settings"] == "ok"


def test_a_second_server_does_not_disturb_the_first(served: Served, tmp_path: Path) -> None:
    port = next(line for line in served.printed.splitlines() if line.startswith("  http://")).rpartition(":")[2]
    model = str(affine_onnx(tmp_path / "m.onnx", 3.0))
    done = served.run("serve", model, "--port", port)
    assert done.returncode == 2
    assert (
        f"Cannot listen on 127.0.0.1 port {port}: address already in use; give another with --port"
        in done.stderr
    )
    assert served.run("infer", "doubler-v1", "--zeros").returncode == 0


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent.onnx", None, "There is no file"),
        ("broken.onnx", b"no model", "ONNX Runtime cannot load broken.onnx"),
        ("broken.tflite", b"no model", "TFLite cannot load broken.tflite"),
        ("model.pt", b"", "neither .onnx nor .tflite"),
    ],
)
def test_a_file_that_cannot_be_served(
    tmp_path: Path, environ: dict[str, str], name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [EDGE_AGENT, "serve", str(tmp_path / name), "--port", "0"],
        capture_output=True,
        text=True,
        env=environ,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("edge-agent: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_run_keeps_its_process_id_and_a_second_one_says_who_holds_the_folder(tmp_path: Path) -> None:
    with AgentProcess(tmp_path / "a", {}) as agent:
        assert agent.process is not None
        assert agent.ask("status")["process"]["pid"] == agent.process.pid
        second = subprocess.run(
            [EDGE_AGENT, "run", "--config", str(agent.config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 2
        assert f"process {agent.process.pid}" in second.stderr
        assert second.stderr.count("\n") == 1


def test_run_with_broken_settings_tells_every_problem(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[stor]\n[http]\ntcp_port = 'x'\n")
    done = subprocess.run(
        [EDGE_AGENT, "run", "--config", str(config)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["edge-agent", "edge-agent"]
