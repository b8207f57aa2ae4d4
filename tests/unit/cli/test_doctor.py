import fcntl
import json
import os
import shutil
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_agent.cli import checks
from edge_agent.cli.checks import RUNTIMES, Finding
from edge_agent.cli.doctor import guarded
from edge_agent.cli.launch import lock_holder
from edge_agent.cli.main import main
from edge_agent.documents.settings import GrpcSettings, Settings, StoreSettings
from edge_agent.store.layout import StateLayout

NOW_S = datetime(2026, 11, 1, tzinfo=UTC).timestamp()


def root_file(path: Path, expires: datetime) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"signed": {"_type": "root", "expires": f"{expires:%Y-%m-%dT%H:%M:%SZ}"}}))
    return path


def in_days(days: float) -> datetime:
    return datetime.fromtimestamp(NOW_S, UTC) + timedelta(days=days)


def trust(tmp_path: Path, root: Path | None) -> Finding:
    settings = Settings(store=StoreSettings(url="http://h", root=str(root) if root else None))
    return checks.trusted_root(settings, StateLayout(tmp_path / "state"), NOW_S)


@pytest.mark.parametrize("name", RUNTIMES)
def test_installed_runtimes_compute(name: str) -> None:
    version = checks.installed(name)
    if version is None:
        pytest.skip(f"{name} is not installed")
    assert checks.try_runtime(name) == Finding("runtime", "ok", f"{name} {version} computes")


@pytest.mark.parametrize(
    ("returncode", "stdout", "numpy", "outcome", "says"),
    [
        (-4, "", "1.26.4", "fail", "crashes with SIGILL; install a build for this processor"),
        (1, "", "2.1.0", "warn", "does not run with numpy 2.1.0: pip install 'numpy<2'"),
        (1, "It is broken.", "1.26.4", "fail", "It is broken."),
        (1, "", "1.26.4", "fail", "does not run: ImportError: libx.so"),
    ],
)
def test_a_runtime_that_does_not_run_is_told(
    monkeypatch: pytest.MonkeyPatch, returncode: int, stdout: str, numpy: str, outcome: str, says: str
) -> None:
    ended = subprocess.CompletedProcess([], returncode, stdout, "Traceback\nImportError: libx.so\n")
    monkeypatch.setattr(checks.subprocess, "run", lambda *_, **__: ended)
    monkeypatch.setattr(checks, "installed", {"numpy": numpy, "ai-edge-litert": "2.3.0"}.get)
    finding = checks.try_runtime("tflite-runtime")
    assert finding.outcome == outcome
    assert says in finding.message


def test_a_runtime_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "TRIAL_TIMEOUT_S", 0.001)
    assert checks.try_runtime("onnxruntime").message == "onnxruntime hangs on a tiny model; install it again."


def test_no_runtime_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "installed", lambda _: None)
    (finding,) = checks.runtimes()
    assert finding.outcome == "fail"
    assert "pip install 'edge-inference-agent[onnx]'" in finding.message


def test_grpc_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(checks.grpc(GrpcSettings())) == []
    (finding,) = checks.grpc(GrpcSettings(tcp_port=8001))
    assert finding.outcome == "ok"
    monkeypatch.setattr(checks, "installed", lambda name: None)
    (finding,) = checks.grpc(GrpcSettings(socket=True))
    assert finding.outcome == "fail"
    assert "pip install 'edge-inference-agent[grpc]'" in finding.message


def test_the_state_folder_and_who_holds_it(tmp_path: Path) -> None:
    layout = StateLayout(tmp_path / "state")
    assert [finding.message for finding in checks.state_folder(layout)] == [f"{layout.base} can be made"]
    layout.create()
    layout.lock.write_text("4711\n")
    assert lock_holder(layout.lock) is None
    with layout.lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert lock_holder(layout.lock) == "4711"
        assert "process id 4711" in list(checks.state_folder(layout))[-1].message


def test_a_state_folder_that_this_user_may_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    (finding,) = checks.state_folder(StateLayout(tmp_path))
    assert finding.outcome == "warn"


@pytest.mark.parametrize(("free", "outcome"), [(2**40, "ok"), (2**28, "warn"), (2**20, "fail")])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, outcome: str) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert checks.disk(StateLayout(tmp_path / "state")).outcome == outcome


def test_clock() -> None:
    assert checks.clock(datetime(2000, 1, 1, tzinfo=UTC).timestamp()).outcome == "fail"
    assert checks.clock(datetime.now(UTC).timestamp()).outcome == "ok"


def test_the_trusted_root(tmp_path: Path) -> None:
    assert trust(tmp_path, None).outcome == "fail"
    assert "no readable TUF root" in trust(tmp_path, tmp_path / "absent.json").message
    assert trust(tmp_path, root_file(tmp_path / "a.json", in_days(200))).outcome == "ok"
    assert trust(tmp_path, root_file(tmp_path / "b.json", in_days(5))).outcome == "warn"
    assert "expired 2 d ago" in trust(tmp_path, root_file(tmp_path / "c.json", in_days(-2))).message
    root_file(tmp_path / "state/trust/current/root.json", in_days(100))
    assert trust(tmp_path, tmp_path / "c.json").outcome == "ok", "a sync brought a newer root"
    (tmp_path / "d.json").write_text('{"signed": {"_type": "snapshot", "expires": "2030-01-01T00:00:00Z"}}')
    assert trust(tmp_path, tmp_path / "d.json").outcome == "fail"


@pytest.mark.parametrize(
    ("content", "outcome", "says"),
    [
        (b'{"signed": {"_type": "timestamp"}}', "ok", "the store answers"),
        (b"<html>Please log in</html>", "fail", "perhaps a network's login page"),
        (b"[]", "fail", "perhaps a network's login page"),
    ],
)
def test_the_store_and_what_pretends_to_be_it(content: bytes, outcome: str, says: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="store")
        thread.start()
        finding = checks.store(Settings(store=StoreSettings(url=f"http://127.0.0.1:{server.server_port}/x")))
        server.shutdown()
        thread.join()
    assert finding.outcome == outcome
    assert says in finding.message


def test_a_store_that_is_down_and_none() -> None:
    assert checks.store(Settings(store=StoreSettings(url="http://127.0.0.1:9/"))).outcome == "fail"
    assert checks.store(Settings()).outcome == "warn"


def test_a_check_that_breaks_is_a_finding() -> None:
    def check() -> list[Finding]:
        raise ZeroDivisionError("oh")

    (finding,) = guarded("disk", check)
    assert finding == Finding("disk", "fail", "This check broke (ZeroDivisionError: oh); please report it.")


def test_broken_settings_fail_and_the_rest_is_still_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "runtimes", lambda: iter([Finding("runtime", "ok", "x computes")]))
    (tmp_path / "config.toml").write_text("[stor]\n[htttp]\n")
    assert main(["doctor", "--json", "--config", str(tmp_path / "config.toml")]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"] is False
    assert [finding["check"] for finding in found["findings"]] == [
        "software",
        "runtime",
        "settings",
        "settings",
    ]
    assert main(["doctor", "--config", str(tmp_path / "config.toml")]) == 1
    assert "fail  settings  " in capsys.readouterr().out
