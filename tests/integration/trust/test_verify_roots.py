"""`verify` and the chain of roots, with and without a root that is known to be good."""

import shutil
from pathlib import Path

import pytest

from edge_fleet.cli import main
from edge_fleet.rotate import rotate
from edge_fleet.trust.proposal import Change
from edge_fleet.verify import verify
from support.tiny_fleet import Fleet

NEWEST = 3
DAMAGED = ["root.json", "metadata/1.root.json", "metadata/2.root.json", "metadata/3.root.json"]


@pytest.fixture
def aged(fleet: Fleet) -> Fleet:
    """A store with three roots."""
    for _ in range(1, NEWEST):
        rotate(fleet.repository, fleet.keys, "root", Change(), fleet.now)
    return fleet


def findings(fleet: Fleet, root: Path | None) -> tuple[str, ...]:
    return verify(fleet.repository, fleet.now, root).findings


@pytest.fixture
def good(aged: Fleet, tmp_path: Path) -> list[Path]:
    """Copies of all roots, from the first on."""
    return [
        Path(shutil.copy(aged.store / f"metadata/{version}.root.json", tmp_path)) for version in (1, 2, NEWEST)
    ]


def test_a_sound_store_leads_over_each_of_its_roots(aged: Fleet, good: list[Path]) -> None:
    assert [findings(aged, root) for root in (None, *good)] == [()] * 4


@pytest.mark.parametrize("damaged", DAMAGED)
def test_every_root_is_checked_whichever_is_trusted(aged: Fleet, good: list[Path], damaged: str) -> None:
    (aged.store / damaged).write_bytes(b"{}")
    for root in (None, *good):
        assert any(f"{damaged} is" in finding for finding in findings(aged, root))


@pytest.mark.parametrize("lost", ["root.json", "metadata/1.root.json"])
def test_every_root_is_needed(aged: Fleet, good: list[Path], lost: str) -> None:
    (aged.store / lost).unlink()
    for root in (None, *good):
        assert any("lacks" in finding and lost in finding for finding in findings(aged, root))


def test_a_store_that_was_rolled_back(aged: Fleet, good: list[Path]) -> None:
    (aged.store / "metadata/3.root.json").unlink()
    shutil.copy(good[1], aged.store / "root.json")
    assert findings(aged, None) == ()
    assert findings(aged, good[1]) == ()
    assert findings(aged, good[2]) == (
        "The store lacks metadata/3.root.json, which is trusted: it was set back, restore it from a backup.",
    )


@pytest.mark.parametrize("versions", [1, NEWEST])
def test_a_root_of_another_store(aged: Fleet, tmp_path: Path, versions: int) -> None:
    other = Fleet(tmp_path / "other")
    other.repository.create(other.keys, other.now)
    for _ in range(1, versions):
        rotate(other.repository, other.keys, "root", Change(), other.now)
    found = findings(aged, other.store / "root.json")
    refused = f"metadata/{versions}.root.json is not the root {versions} that is trusted"
    assert f"{refused}: this is another store, or forged." in found
    assert any("keys that root" in finding for finding in found)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{}", "FILE is damaged ("),
        (None, "FILE cannot be read"),
        ("timestamp", "FILE is no root but timestamp"),
    ],
)
def test_a_file_that_is_no_root(
    aged: Fleet, tmp_path: Path, content: bytes | str | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trusted"
    if content == "timestamp":
        shutil.copy(aged.store / "metadata/timestamp.json", file)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    assert main(["verify", str(aged.store), "--root", str(file)]) == 2
    said = capsys.readouterr().err.replace(str(file), "FILE")
    assert says in said
    assert said.count("\n") == 1
