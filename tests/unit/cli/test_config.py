import json
import tomllib
from pathlib import Path

import pytest

from edge_agent.cli.config import hide_password, toml_value
from edge_agent.cli.main import main
from edge_agent.documents.schemas import schema


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("[store]\nurl = 'https://u:secret@models.example.org'\n[device.labels]\nsite = 'ulm'\n")
    return path


def test_show_is_toml_with_the_origin_of_each_value(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_AGENT_HTTP_TCP_PORT", "8000")
    assert main(["config", "show", "--config", str(config)]) == 0
    text = capsys.readouterr().out
    shown = tomllib.loads(text)
    assert shown["device"]["labels"] == {"site": "ulm"}
    assert shown["http"]["socket_mode"] == 0o660
    assert "proxy" not in shown["store"]
    assert "secret" not in text
    lines = {line.split(" = ")[0]: line for line in text.splitlines()}
    assert lines["url"].endswith(f"# file:{config}")
    assert lines["tcp_port"].endswith("# env:EDGE_AGENT_HTTP_TCP_PORT")
    assert lines["level"].endswith("# default")


def test_show_as_json(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--json", "--config", str(config)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["settings"]["store"]["url"] == "https://u:***@models.example.org"
    assert shown["origins"]["store.url"] == f"file:{config}"
    assert shown["files"] == [str(config)]


def test_check(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "--config", str(config)]) == 0
    assert capsys.readouterr().out == f"The settings are valid ({config}).\n"
    config.write_text("[stor]\n[http]\ntcp_port = -1\n")
    assert main(["config", "check", "--config", str(config)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"edge-agent: {config}: there is no section [stor], did you mean 'store'?",
        f"edge-agent: {config}: http.tcp_port is -1, but must be a whole number from 0 to 65535.",
    ]
    assert main(["config", "check", "--config", str(config), "--json"]) == 2
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 2


def test_path(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path))
    assert main(["config", "path", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"] == f"{tmp_path}/config.toml"
    assert found["conf_d"] == f"{tmp_path}/conf.d"
    assert main(["config", "path"]) == 0
    assert f"{tmp_path}/config.toml (not there)" in capsys.readouterr().out


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema("settings")


@pytest.mark.parametrize("value", ['a"b\\c', "é\n", 3, 2.5, True, ["a", "b"], {}, {"a b": 'c"d', "e": "f"}])
def test_a_value_is_valid_toml(value: object) -> None:
    assert tomllib.loads(f"x = {toml_value(value, 'key')}")["x"] == value


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (None, None),
        ("http://h/a", "http://h/a"),
        ("http://u@h/a", "http://u@h/a"),
        ("http://u:p@h:1/a", "http://u:***@h:1/a"),
        ("file:///a", "file:///a"),
    ],
)
def test_passwords_are_hidden(url: str | None, shown: str | None) -> None:
    assert hide_password(url) == shown
