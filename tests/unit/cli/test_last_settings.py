import argparse
import fcntl
import stat
from pathlib import Path

import pytest

from edge_agent.cli.last_settings import recall, try_to_keep
from edge_agent.cli.run import prepared
from edge_agent.documents.errors import SettingsError
from edge_agent.documents.settings import Settings


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path / "etc"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    (tmp_path / "etc").mkdir()


def started(config: Path | None = None) -> tuple[Settings, tuple[str, ...]]:
    launch = prepared(argparse.Namespace(config=config))
    return launch.settings, launch.problems


def test_a_bad_edit_leaves_the_last_valid_settings_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "etc/config.toml"
    config.write_text("[http]\ntcp_port = 1234\n")
    good, problems = started()
    assert (good.http.tcp_port, problems) == (1234, ())
    for text in ("[http]\ntcp_prt = 1\n", "this is no TOML"):
        config.write_text(text)
        settings, problems = started()
        assert settings == good
        assert len(problems) == 1
        assert str(config) in problems[0]
        assert capsys.readouterr().err.splitlines() == [
            f"edge-agent: {problems[0]}",
            "edge-agent: The last valid settings are used until that is repaired.",
        ]
    config.write_text("[http]\ntcp_port = 4321\n")
    assert started()[0].http.tcp_port == 4321
    assert capsys.readouterr().err == ""


def test_the_state_folder_is_found_in_broken_settings(tmp_path: Path) -> None:
    config = tmp_path / "etc/config.toml"
    config.write_text("[paths]\nstate = 'elsewhere'\n")
    good, _ = started()
    config.write_text("[paths]\nstate = 'elsewhere'\n[http]\ntcp_port = 'x'\n")
    assert started()[0] == good
    assert recall(config, tmp_path / "etc/elsewhere") == good


def test_damaged_former_settings_do_not_stop_the_agent(tmp_path: Path) -> None:
    config = tmp_path / "etc/config.toml"
    started()
    (tmp_path / "state/settings.json").write_bytes(b'{"config": "\xff"}')
    assert recall(config, tmp_path / "state") is None
    good, problems = started()
    assert problems == ()
    assert recall(config, tmp_path / "state") == good


def test_former_settings_of_another_file_are_not_used(tmp_path: Path) -> None:
    started()
    (tmp_path / "etc/config.toml").write_text("[x]\n")
    assert started()[1]
    other = tmp_path / "other.toml"
    other.write_text("[x]\n")
    with pytest.raises(SettingsError, match="no section"):
        started(other)


def test_without_former_settings_broken_ones_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "etc/config.toml").write_text("[x]\n")
    with pytest.raises(SettingsError, match="no section"):
        started()
    (tmp_path / "state").mkdir()
    (tmp_path / "state/settings.json").write_bytes(b"{damaged")
    with pytest.raises(SettingsError, match="no section"):
        started()


def test_the_file_is_private_and_written_only_when_settings_change(tmp_path: Path) -> None:
    started()
    file = tmp_path / "state/settings.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.stat().st_ino
    started()
    assert file.stat().st_ino == before


def test_another_agents_folder_is_left_alone(tmp_path: Path) -> None:
    good, _ = started()
    (tmp_path / "etc/config.toml").write_text("[http]\ntcp_port = 1\n")
    with (tmp_path / "state/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert started()[0].http.tcp_port == 1
        assert recall(tmp_path / "etc/config.toml", tmp_path / "state") == good


def test_a_disk_that_refuses_is_told_and_does_not_stop_the_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("a file in the place of the folder")
    settings, problems = started()
    assert (settings.http, problems) == (Settings().http, ())
    assert "Cannot create the state folder" in capsys.readouterr().err
    assert try_to_keep(tmp_path / "c", settings).startswith("Cannot create the state folder")
