"""`edge-agent top` on a real terminal and without one, against real processes."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from edge_agent.client import Client
from support.models import affine_onnx
from support.serving import ServingProcess, version_plan

EDGE_AGENT = str(Path(sys.executable).parent / "edge-agent")
LIMIT_S = 20.0
_ESCAPES = re.compile(r"\x1b\[[?\d;]*[a-zA-Z]")


class Terminal:
    """A command on a terminal of its own, of which the last frame can be read."""

    def __init__(self, words: list[str], columns: int = 100, rows: int = 24) -> None:
        self._ours, self.theirs = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen(
            words,
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
            start_new_session=True,
        )
        self.seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        os.close(self._ours)
        os.close(self.theirs)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def until(self, condition: Any, what: str) -> list[str]:
        """Read until a frame meets a condition; return its lines."""
        deadline_s = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline_s:
            frame = self.frame()
            if frame and condition("\n".join(frame)):
                return frame
            self._read(0.1)
        raise AssertionError(f"not within {LIMIT_S:g} s: {what}\n{self.seen[-3000:]!r}")

    def frame(self) -> list[str]:
        """Return the last whole frame."""
        frames = [part for part in self.seen.split("\x1b[H")[1:] if "\x1b[J" in part]
        if not frames:
            return []
        # A terminal makes \r\n of \n, and of \r\n, which is right on any, \r\r\n.
        return re.split(r"\r+\n", _ESCAPES.sub("", frames[-1].partition("\x1b[J")[0]))

    def ended(self) -> int:
        """Wait for the command to end, reading what it still says; return its exit code."""
        deadline_s = time.monotonic() + LIMIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, self.seen[-3000:]
            self._read(0.05)
        self._read(0.05)
        return self.process.wait()

    def _read(self, timeout_s: float) -> None:
        if select.select([self._ours], [], [], timeout_s)[0]:
            self.seen += os.read(self._ours, 65536).decode()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    folder = tmp_path_factory.mktemp("top")
    with ServingProcess(folder) as process:
        apply(process, folder)
        yield process


def apply(process: ServingProcess, folder: Path) -> None:
    process.apply(
        version_plan(affine_onnx(folder / "m.onnx", 2.0), model="busy", version="7"),
        version_plan(affine_onnx(folder / "n.onnx", 3.0), model="calm"),
    )


def ask(serving: ServingProcess, count: int) -> None:
    with Client(str(serving.path)) as client:
        for _ in range(count):
            client.infer("busy", np.ones((1, 3), np.float32))


def top(serving: ServingProcess, *words: str) -> list[str]:
    return [EDGE_AGENT, "top", "--socket", str(serving.path), *words]


def test_the_view_is_drawn_in_place_and_left_clean_with_q(serving: ServingProcess) -> None:
    with Terminal(top(serving, "--interval", "0.2")) as terminal:
        terminal.until(lambda text: "busy" in text and "calm" in text, "both models are shown")
        ask(serving, 20)
        view = terminal.until(lambda text: re.search(r"busy .* [2-9]\d +onnx", text), "it counts")
        assert "\x1b[?1049h" in terminal.seen
        assert len(view) <= 23
        terminal.press(b"q")
        assert terminal.ended() == 0
        assert terminal.seen.rstrip().endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(terminal.theirs) == terminal.before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_the_terminal_clean_too(serving: ServingProcess, number: signal.Signals) -> None:
    with Terminal(top(serving)) as terminal:
        terminal.until(lambda text: "busy" in text, "the view")
        terminal.process.send_signal(number)
        assert terminal.ended() == 0
        assert terminal.seen.rstrip().endswith("\x1b[?1049l")
        assert "Traceback" not in terminal.seen
        assert termios.tcgetattr(terminal.theirs) == terminal.before


def test_it_follows_the_size_of_the_terminal(serving: ServingProcess) -> None:
    with Terminal(top(serving, "--interval", "60"), columns=140) as terminal:
        terminal.until(lambda text: "ARMS/S" in text, "all columns")
        terminal.resize(40, 8)
        terminal.process.send_signal(signal.SIGWINCH)
        view = terminal.until(lambda text: "ARMS/S" not in text, "fewer columns, long before the next look")
        assert len(view) <= 7
        assert max(map(len, view)) <= 40


def test_it_goes_on_while_serving_is_down(tmp_path: Path) -> None:
    with ServingProcess(tmp_path) as serving:
        apply(serving, tmp_path)
        with Terminal(top(serving, "--interval", "0.2"), columns=160) as terminal:
            terminal.until(lambda text: "busy" in text, "the view")
            serving.process.kill()
            serving.wait()
            # The supervisor keeps the socket, so that a connection is taken and not answered.
            terminal.until(lambda text: "does not answer" in text, "it says so")
            serving.start()
            apply(serving, tmp_path)
            terminal.until(lambda text: "busy" in text and "does not answer" not in text, "it is back")
            ask(serving, 3)
            terminal.until(lambda text: re.search(r"busy +7 .* 3 +onnx", text), "it counts")
            terminal.press(b"q")
            assert terminal.ended() == 0


def test_stopping_it_gives_the_terminal_back_for_as_long(serving: ServingProcess) -> None:
    with Terminal(top(serving, "--interval", "0.2")) as terminal:
        terminal.until(lambda text: "busy" in text, "the view")
        terminal.process.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED)
        assert termios.tcgetattr(terminal.theirs) == terminal.before
        terminal._read(1)
        assert terminal.seen.endswith("\x1b[?1049l")
        terminal.process.send_signal(signal.SIGCONT)
        terminal.until(lambda _: terminal.seen.count("\x1b[?1049h") == 2, "the view is back")
        terminal.press(b"q")
        assert terminal.ended() == 0


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_json_is_one_object_a_tick(serving: ServingProcess) -> None:
    command = top(serving, "--json", "--count", "3", "--interval", "0.4")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ticks = []
        for line in process.stdout:
            ticks.append(json.loads(line))
            if len(ticks) == 1:
                ask(serving, 40)
        assert process.wait(LIMIT_S) == 0
    assert len(ticks) == 3
    counted = [version for tick in ticks for version in tick["versions"] if version["requests_per_s"]]
    assert {(version["model"], version["version"]) for version in counted} == {("busy", "7")}
    assert sum(version["requests_per_s"] * 0.4 for version in counted) == pytest.approx(40, rel=0.3)
    assert 0 < counted[0]["p50_ms"] <= counted[0]["p99_ms"] < 1000
    assert ticks[0]["versions"][0]["arms_per_s"].keys() <= {"7"}


def test_without_a_terminal_lines_come(serving: ServingProcess) -> None:
    done = run(top(serving, "--count", "2", "--interval", "0.1"))
    assert done.returncode == 0
    assert done.stdout.count("MODEL") == 2
    assert "\x1b" not in done.stdout
    assert "calm" in done.stdout


def test_over_tcp_the_metrics_alone_are_shown(serving: ServingProcess) -> None:
    url = "http://{}:{}".format(*serving.metrics)
    done = run([EDGE_AGENT, "top", "--once", "--interval", "0.1", "--json", "--url", url])
    assert done.returncode == 0
    tick = json.loads(done.stdout)
    assert {version["model"] for version in tick["versions"]} == {"busy", "calm"}
    assert "agent" not in tick
    assert tick["admin_problem"] == ""


AS_NOBODY = """
import os, sys
from edge_agent.cli.main import main
words = ["top", "--once", "--interval", "0.1", "--socket", sys.argv[1]]
main(words)  # imports all that another user may not read
if os.geteuid() == 0:
    os.setuid(65534)
print("---")
sys.exit(main(words))
"""


@pytest.mark.slow
def test_who_may_not_administer_sees_what_serving_says() -> None:
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as admin:
        folder = Path(name)
        folder.chmod(0o755)
        with ServingProcess(folder) as serving:
            apply(serving, folder)
            admin.bind(str(folder / "admin.sock"))
            admin.listen()
            (folder / "admin.sock").chmod(0o600 if os.geteuid() == 0 else 0)
            serving.path.chmod(0o666)
            done = run([sys.executable, "-c", AS_NOBODY, str(serving.path)])
    assert done.returncode == 0, done.stderr
    view = done.stdout.partition("---")[2]
    assert "You may not administer the agent" in view
    assert "busy" in view
    assert "serving " in view


def test_nothing_there_is_said_with_exit_code_1(tmp_path: Path) -> None:
    done = run([EDGE_AGENT, "top", "--once", "--interval", "0.1", "--socket", str(tmp_path / "infer.sock")])
    assert done.returncode == 1
    assert "Serving does not answer at" in done.stdout
    assert "No agent is running here" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words", [["--interval", "0"], ["--interval", "x"], ["--count", "0"], ["--url", "ftp://x"]]
)
def test_mistakes_are_one_line(words: list[str]) -> None:
    done = run([EDGE_AGENT, "top", *words])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
