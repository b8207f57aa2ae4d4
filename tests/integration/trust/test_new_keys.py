"""`rotate --new-key` that cannot be done: it is told before a key is made."""

import shutil
from pathlib import Path

import pytest

from edge_fleet.cli import main
from edge_fleet.keys import KeyFolder
from edge_fleet.rotate import propose
from edge_fleet.trust.proposal import Change
from edge_fleet.trust.signers import read_key
from edge_fleet.verify import verify
from support.tiny_fleet import Fleet


def rotate(fleet: Fleet, role: str, *more: str) -> int:
    keys = ["--keys", str(fleet.keys.path)]
    return main(["rotate", str(fleet.store), role, "--new-key", *more, *keys])


@pytest.mark.parametrize(
    ("role", "lost"),
    [
        ("timestamp", "root"),
        ("root", "root"),
        ("targets", "snapshot"),
        ("snapshot", "timestamp"),
        ("m-digits", "targets"),
        ("m-digits", "snapshot"),
    ],
)
def test_a_key_that_must_sign_is_missing(
    fleet: Fleet, role: str, lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.publish()
    fleet.keys.file(lost).unlink()
    before = sorted(fleet.keys.path.iterdir())
    capsys.readouterr()
    assert rotate(fleet, role) == 2
    assert f"{lost}.pem cannot be read" in capsys.readouterr().err
    fleet.keys.create(lost)
    assert rotate(fleet, role) == 2
    said = capsys.readouterr().err
    assert f"No key was made: '{lost}' must sign with 1 keys that the store trusts" in said
    assert ("--proposal" in said) == (lost == "root")
    assert sorted(fleet.keys.path.iterdir()) == sorted({*before, fleet.keys.file(lost)})


@pytest.mark.parametrize("role", ["timestamp", "targets", "m-digits"])
def test_a_key_that_cannot_be_opened_any_more_is_left_behind(fleet: Fleet, role: str) -> None:
    fleet.publish()
    fleet.keys.file(role).write_text("-----BEGIN PRIVATE KEY-----\n")
    assert rotate(fleet, role) == 0
    assert main(["refresh", str(fleet.store), "--all", "--keys", str(fleet.keys.path)]) == 0
    assert verify(fleet.repository, fleet.now).findings == ()


def test_one_of_several_signs_beside_a_key_that_cannot_be_opened(fleet: Fleet, tmp_path: Path) -> None:
    bob = KeyFolder(tmp_path / "bob")
    for name in ("root.bob", "root.carol"):
        bob.create(name)
    change = Change(add=tuple(read_key(bob, name) for name in ("root.bob", "root.carol")), threshold=2)
    proposal = propose(fleet.repository.read(), "root", change, fleet.now)
    proposal.write(tmp_path / "proposal")
    (bob.path / "root.carol.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    assert main(["sign", str(tmp_path / "proposal"), "--keys", str(bob.path)]) == 0


@pytest.mark.parametrize(
    ("role", "file", "says"),
    [
        ("deployments", "new", "leave --proposal out"),
        ("timestamp", "taken", "is there already: give another name"),
        ("timestamp", "nowhere/new", "nowhere is no folder"),
    ],
)
def test_a_proposal_that_cannot_be_written(
    fleet: Fleet, tmp_path: Path, role: str, file: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").touch()
    before = sorted(fleet.keys.path.iterdir())
    assert rotate(fleet, role, "--proposal", str(tmp_path / file)) == 2
    assert says in capsys.readouterr().err
    assert sorted(fleet.keys.path.iterdir()) == before


def test_keys_inside_the_store(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    inside = fleet.store / "keys"
    shutil.copytree(fleet.keys.path, inside)
    before = sorted(inside.iterdir())
    assert main(["rotate", str(fleet.store), "timestamp", "--new-key", "--keys", str(inside)]) == 2
    assert "lie inside the store" in capsys.readouterr().err
    assert sorted(inside.iterdir()) == before
