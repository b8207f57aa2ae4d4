import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edge_agent.cli import launch as launch_module
from edge_agent.cli.launch import launch_file, prepare_runtime_folder
from edge_agent.documents.errors import OperatorError, SettingsError
from edge_agent.documents.ipc import Launch
from edge_agent.documents.plan import Plan, VersionPlan, with_id
from edge_agent.documents.settings import DeviceSettings, Settings
from edge_agent.documents.tensors import TensorSpec


def test_the_launch_file_is_read_by_a_child_from_its_descriptor() -> None:
    version = VersionPlan("m", "dev", "onnx", "fp32", "ab", "/m", 1, (TensorSpec("x", "FP32", (-1,)),), ())
    launch = Launch(settings=Settings(device=DeviceSettings("d")), plan=with_id(Plan(versions=(version,))))
    descriptor = launch_file(launch)
    try:
        script = f"import os; os.write(1, os.read({descriptor}, 1 << 20))"
        child = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, close_fds=False, timeout=30, check=True
        )
    finally:
        os.close(descriptor)
    assert msgspec.json.decode(child.stdout, type=Launch) == launch


def test_the_runtime_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    prepare_runtime_folder(folder)
    prepare_runtime_folder(folder)
    wanted = 0o755 if os.geteuid() == 0 else 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)} == {wanted}


@pytest.mark.parametrize("below", ["", "edge-agent-serve/1"])
def test_a_runtime_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    prepare_runtime_folder(tmp_path / "r" / below)
    monkeypatch.setattr(launch_module.os, "geteuid", lambda: 54321)
    if (tmp_path / "r").stat().st_uid == 0:
        os.chown(tmp_path / "r", 12345, 12345)
    with pytest.raises(SettingsError, match="belongs to another user, who could replace the sockets"):
        prepare_runtime_folder(tmp_path / "r" / below)


def test_root_may_use_its_service_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r").mkdir()
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    monkeypatch.setattr(launch_module.os, "geteuid", lambda: 0)
    if (tmp_path / "r").stat().st_uid == 0:
        os.chown(tmp_path / "r", 12345, 12345)
    prepare_runtime_folder(tmp_path / "r")


def test_a_runtime_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match=r"Cannot make the runtime folder .*; set paths\.runtime"):
        prepare_runtime_folder(tmp_path / "file" / "r")
    with pytest.raises(SettingsError, match=r"a socket path of .* and Linux allows 107"):
        prepare_runtime_folder(tmp_path / ("r" * 100))
