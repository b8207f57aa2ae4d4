"""What lies in a folder of keys beside private PEM files, and what is never overwritten there."""

import io
import shutil
import sys
from pathlib import Path

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


class TestPublicKeys:
    """As `keys export root --out root.pub.pem` leaves them, in the folder itself."""

    @pytest.fixture
    def exported(self, fleet: Fleet, keys: list[str]) -> Path:
        file = fleet.keys.path / "root.pub.pem"
        assert main(["keys", "export", "root", "--out", str(file), *keys]) == 0
        return file

    @pytest.mark.usefixtures("exported")
    def test_they_are_no_keys_of_their_role(
        self, fleet: Fleet, keys: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = str(fleet.store)
        assert main(["refresh", store, "--all", *keys]) == 0
        assert main(["rotate", store, "root", "--renew", *keys]) == 0
        assert main(["keys", "passphrase", "--unencrypted", *keys]) == 0
        capsys.readouterr()
        assert main(["keys", "list", *keys]) == 0
        shown = capsys.readouterr().out
        assert "root.pem" in shown
        assert "root.pub.pem" not in shown

    def test_they_make_no_plain_keys(
        self, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "mine"
        folder.mkdir()
        shutil.copy(exported, folder)
        assert main(["keys", "create", "root.mine", "--keys", str(folder)]) == 2
        assert "The new keys have no passphrase" in capsys.readouterr().err
        assert [path.name for path in folder.iterdir()] == ["root.pub.pem"]


@pytest.mark.parametrize("there", ["root.json", "root.pem"])
def test_a_name_is_taken_by_either_kind_of_key(
    fleet: Fleet, keys: list[str], tmp_path: Path, there: str, capsys: pytest.CaptureFixture[str]
) -> None:
    public = tmp_path / "root.pub.pem"
    assert main(["keys", "export", "root", "--out", str(public), *keys]) == 0
    folder = tmp_path / "mine"
    mine = ["--keys", str(folder)]
    use = ["keys", "use", "root", f"file2:{fleet.keys.file('root')}", "--public", str(public), *mine]
    create = ["keys", "create", "root", "--unencrypted", *mine]
    first, second = (use, create) if there == "root.json" else (create, use)
    assert main(first) == 0
    assert main(second) == 2
    assert f"{folder / there} exists already: choose another name" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [there]
