"""What the fleet tools say when the broker refuses them; with a real broker."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_fleet.cli import main
from support.broker import Broker
from support.fleet import Fleet


def collect(tmp_path: Path, broker: str) -> int:
    return main(["collect", f"--mqtt={broker}", "--db", str(tmp_path / "fleet.db"), "--once"])


def notify(tmp_path: Path, broker: str) -> int:
    fleet = Fleet(tmp_path / "fleet")
    fleet.release("1", 2.0)
    return main(["notify", str(fleet.store), f"--mqtt={broker}"])


@pytest.mark.parametrize("command", [collect, notify])
def test_a_user_that_the_broker_does_not_know(
    command: Callable[[Path, str], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Broker(tmp_path / "broker", anonymous=False) as broker:
        assert command(tmp_path, broker.url) == 2
    assert "refuses this user (Not authorized): check the user name" in capsys.readouterr().err


def test_a_hint_that_the_user_may_not_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read #\n")
    with Broker(tmp_path / "broker", f"acl_file {rules}") as broker:
        assert notify(tmp_path, broker.url) == 2
    assert "did not take the message on edge/v1/default/_group/default/desired" in capsys.readouterr().err


# paho forgets to close a socket whose TLS handshake failed.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
def test_a_broker_that_does_not_speak_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Broker(tmp_path / "broker") as broker:
        assert notify(tmp_path, broker.url.replace("mqtt://", "mqtts://")) == 1
    assert "cannot be reached" in capsys.readouterr().err
