"""The check of the systemd units is content with ours, and not with a broken one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def check(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, checkout / "scripts/check_units.py"], capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the units and their check that a test may spoil."""
    shutil.copytree(CHECKOUT / "systemd", tmp_path / "systemd")
    (tmp_path / "scripts").mkdir()
    shutil.copy(CHECKOUT / "scripts/check_units.py", tmp_path / "scripts")
    return tmp_path


def test_our_units_pass_without_a_word() -> None:
    done = check(CHECKOUT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_unknown_key_is_reported(copy: Path) -> None:
    with (copy / "systemd/edge-agent.service").open("a") as unit:
        unit.write("Wanted=multi-user.target\n")
    done = check(copy)
    assert done.returncode == 1
    assert "Wanted" in done.stdout


def test_less_hardening_is_reported(copy: Path) -> None:
    unit = copy / "systemd/edge-agent.service"
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "").replace("NoNewPrivileges=yes", ""))
    done = check(copy)
    assert done.returncode == 1
    assert "exposure" in done.stdout.lower()
