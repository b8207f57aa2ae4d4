"""What lies in a folder of keys beside private PEM files, and what is never overwritten there."""

import io
import sys

import pytest

from edge_fleet.cli import main
from support.tiny_fleet import Fleet


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a terminal nor a passphrase in the environment."""
    monkeypatch.delenv("EDGE_FLEET_PASSPHRASE", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())


@pytest.fixture
def keys(fleet: Fleet) -> list[str]:
    return ["--keys", str(fleet.keys.path)]


class TestExport:
    @pytest.mark.parametrize("name", ["root.pem", "targets.pem"])
    def test_no_key_is_overwritten(
        self, fleet: Fleet, keys: list[str], name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = fleet.keys.path / name
        before = file.read_bytes()
        assert main(["keys", "export", "root", "--out", str(file), *keys]) == 2
        assert "is there already: give another name" in capsys.readouterr().err
        assert file.read_bytes() == before
