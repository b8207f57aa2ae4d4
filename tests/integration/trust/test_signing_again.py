"""Who signs a store again signs only what was signed before, whatever others did to its files."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_agent.documents.errors import OperatorError, StorageError
from edge_fleet.cli import main
from edge_fleet.keys import KeyFolder
from edge_fleet.refresh import refresh
from edge_fleet.repository import Repository
from edge_fleet.retire import retire
from edge_fleet.rotate import replacement, rotate
from edge_fleet.trust.pinning import FOLDER
from edge_fleet.verify import verify
from support.cuts import PowerCutError, cut_after
from support.tiny_fleet import Device, Fleet, forge


@pytest.fixture
def stocked(fleet: Fleet) -> Fleet:
    fleet.publish(version="1", size_bytes=1000)
    fleet.deploy("digits=1")
    return fleet


def add_target(signed: dict[str, Any]) -> None:
    signed["targets"]["deployments/evil.json"] = {"length": 1, "hashes": {"sha256": "0" * 64}}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("role", ["deployments", "targets", "m-digits", "snapshot", "timestamp", "root"])
def test_what_was_forged_is_not_signed(stocked: Fleet, role: str) -> None:
    path = stocked.store / "metadata/timestamp.json" if role == "timestamp" else stocked.newest(role)
    forge(path, lambda signed: add_target(signed) if "targets" in signed else signed.update(x=1))
    before = files_of(stocked.store)
    with pytest.raises(StorageError, match=r"is not as it was signed|forged"):
        refresh(stocked.repository, stocked.keys, stocked.now + timedelta(days=80), everything=True)
    with pytest.raises(StorageError, match="is not as it was signed"):
        stocked.repository.read()
    assert files_of(stocked.store) == before


def test_the_command_says_so(stocked: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    forge(stocked.newest("deployments"), add_target)
    assert main(["refresh", str(stocked.store), "--keys", str(stocked.keys.path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "deployments.json is not the file that was signed for" in line
    assert "restore it from a backup" in line


class TestTrustedRoot:
    def test_another_chain_of_roots_is_refused(self, stocked: Fleet, tmp_path: Path) -> None:
        """Also one that gives these very keys something to sign."""
        forged = Fleet(tmp_path / "forged")
        shutil.copytree(stocked.keys.path, forged.keys.path)
        shutil.rmtree(forged.keys.path / FOLDER)
        for role in ("root", "targets"):
            forged.keys.file(role).unlink()
        forged.repository.create(forged.keys, forged.now)
        shutil.rmtree(stocked.store)
        shutil.copytree(forged.store, stocked.store)
        with pytest.raises(StorageError, match="set back, forged, or is another store"):
            refresh(stocked.repository, stocked.keys, stocked.now)

    def test_a_store_that_was_set_back_is_refused(self, stocked: Fleet, tmp_path: Path) -> None:
        before = tmp_path / "before"
        shutil.copytree(stocked.store, before)
        change = replacement(stocked.keys, stocked.repository.read(), "timestamp", "ed25519")
        rotate(stocked.repository, stocked.keys, "timestamp", change, stocked.now)
        shutil.rmtree(stocked.store)
        shutil.copytree(before, stocked.store)
        with pytest.raises(StorageError, match="set back, forged, or is another store"):
            refresh(stocked.repository, stocked.keys, stocked.now)

    def test_it_moves_on_with_the_store(self, stocked: Fleet) -> None:
        (pin,) = (stocked.keys.path / FOLDER).glob("*.root.json")
        assert pin.read_bytes() == (stocked.store / "metadata/1.root.json").read_bytes()
        change = replacement(stocked.keys, stocked.repository.read(), "timestamp", "ed25519")
        rotate(stocked.repository, stocked.keys, "timestamp", change, stocked.now)
        assert pin.read_bytes() == (stocked.store / "metadata/2.root.json").read_bytes()

    def test_other_keys_follow_from_an_older_one(self, stocked: Fleet, tmp_path: Path) -> None:
        away = KeyFolder(tmp_path / "away")
        shutil.copytree(stocked.keys.path, away.path)
        change = replacement(stocked.keys, stocked.repository.read(), "targets", "ed25519")
        rotate(stocked.repository, stocked.keys, "targets", change, stocked.now)
        refresh(stocked.repository, away, stocked.now)
        (pin,) = (away.path / FOLDER).glob("*.root.json")
        assert pin.read_bytes() == (stocked.store / "metadata/2.root.json").read_bytes()

    def test_one_folder_of_keys_has_several_stores(self, stocked: Fleet, tmp_path: Path) -> None:
        other = Repository(tmp_path / "other")
        other.create(stocked.keys, stocked.now + timedelta(hours=1))
        for repository in (stocked.repository, other, stocked.repository, other):
            refresh(repository, stocked.keys, stocked.now)

    def test_another_store_is_taken_on_by_its_root(self, stocked: Fleet, tmp_path: Path) -> None:
        """Made elsewhere with the same keys."""
        elsewhere = KeyFolder(tmp_path / "elsewhere")
        shutil.copytree(stocked.keys.path, elsewhere.path)
        other = Repository(tmp_path / "other")
        other.create(elsewhere, stocked.now + timedelta(hours=1))
        with pytest.raises(StorageError, match="put its root there"):
            refresh(other, stocked.keys, stocked.now)
        shutil.copy(tmp_path / "other/root.json", stocked.keys.path / FOLDER / "other.root.json")
        refresh(other, stocked.keys, stocked.now)
        assert (stocked.keys.path / FOLDER / "other.timestamp.json").exists()

    def test_what_was_replaced_is_not_signed_again(self, stocked: Fleet, tmp_path: Path) -> None:
        before = tmp_path / "before"
        shutil.copytree(stocked.store, before)
        stocked.publish(version="2")
        shutil.rmtree(stocked.store)
        shutil.copytree(before, stocked.store)
        with pytest.raises(StorageError, match=r"was set back: .* or remove (.*) if that is meant") as refused:
            refresh(stocked.repository, stocked.keys, stocked.now)
        Path(str(refused.value).partition("or remove ")[2].partition(" if that")[0]).unlink()
        refresh(stocked.repository, stocked.keys, stocked.now)

    def test_keys_that_cannot_be_written_follow_all_the_same(
        self, stocked: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_only(path: Path, content: bytes, mode: int) -> None:
            raise StorageError(f"{path} is read-only")

        monkeypatch.setattr("edge_fleet.trust.pinning.write_atomically", read_only)
        (pin,) = (stocked.keys.path / FOLDER).glob("*.timestamp.json")
        before = pin.read_bytes()
        for _ in range(2):
            refresh(stocked.repository, stocked.keys, stocked.now)
        assert pin.read_bytes() == before


class TestTwoWriters:
    def test_one_that_slept_overwrites_nothing(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a bucket a lease runs out while its holder is suspended."""
        monkeypatch.setattr("edge_fleet.stores.folder.FolderFiles.locked", unlocked)
        late, early = fleet.repository, Repository(fleet.store)
        with (
            pytest.raises(StorageError, match="changed by another meanwhile"),
            late.editing(fleet.keys, fleet.now) as edit,
        ):
            edit.renew("deployments")
            refresh(early, fleet.keys, fleet.now, everything=True)
            published = files_of(fleet.store)
        assert files_of(fleet.store) == published
        assert verify(fleet.repository, fleet.now).findings == ()

    def test_each_write_asks_for_the_lock(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        before = files_of(fleet.store)

        def lost(self: object) -> None:
            raise StorageError("The lock ran out.")

        monkeypatch.setattr("edge_fleet.stores.folder.FolderFiles.check_lock", lost)
        with pytest.raises(StorageError, match="ran out"):
            refresh(fleet.repository, fleet.keys, fleet.now, everything=True)
        assert files_of(fleet.store) == before


@contextmanager
def unlocked(self: object) -> Iterator[None]:
    yield


def mend_with_cuts(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a refresh cut off after each number of writes, until it comes to its end."""
    for writes in range(30):
        with monkeypatch.context() as patch:
            cut_after(patch, writes)
            try:
                refresh(fleet.repository, fleet.keys, fleet.now, everything=True)
            except PowerCutError:
                continue
        return


class TestLostKeys:
    """A role whose old key is gone gets another by a new root alone; publishing that may be cut off."""

    @pytest.mark.parametrize("role", ["targets", "timestamp", "snapshot"])
    def test_after_a_cut_it_is_finished_by_a_refresh(
        self, stocked: Fleet, device: Device, role: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = device.sync().plan
        stocked.keys.file(role).unlink()
        change = replacement(stocked.keys, stocked.repository.read(), role, "ed25519")
        lagged = 0
        for writes in range(20):
            with monkeypatch.context() as patch:
                cut_after(patch, writes)
                try:
                    rotate(Repository(stocked.store), stocked.keys, role, change, stocked.now)
                    break
                except PowerCutError:
                    pass
            if (stocked.store / "metadata/2.root.json").exists():
                lagged += 1
                with pytest.raises(StorageError, match="was cut off: run edge-fleet refresh --all"):
                    refresh(stocked.repository, stocked.keys, stocked.now)
                (finding, *_) = verify(stocked.repository, stocked.now).findings
                assert "run edge-fleet refresh --all" in finding
                mend_with_cuts(stocked, monkeypatch)
                break
            assert device.sync(force=True).plan == plan
        assert lagged == 1
        assert verify(stocked.repository, stocked.now).findings == ()
        assert device.sync(force=True).plan == plan
        refresh(stocked.repository, stocked.keys, stocked.now)

    def test_nothing_is_written_if_a_key_does_not_sign(
        self, stocked: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stocked.keys.file("targets").unlink()
        change = replacement(stocked.keys, stocked.repository.read(), "targets", "ed25519")
        before = files_of(stocked.store)
        stocked.keys.file("snapshot").unlink()
        with pytest.raises(OperatorError, match="snapshot"):
            rotate(stocked.repository, stocked.keys, "targets", change, stocked.now)
        assert files_of(stocked.store) == before

    def test_old_keys_of_a_root_that_is_complete_are_no_excuse(self, stocked: Fleet, tmp_path: Path) -> None:
        """A thief of them cannot have it signed anew what the store held before."""
        before = tmp_path / "before"
        shutil.copytree(stocked.store, before)
        for role in ("targets", "snapshot", "timestamp"):
            stocked.keys.file(role).unlink()
            change = replacement(stocked.keys, stocked.repository.read(), role, "ed25519")
            rotate(stocked.repository, stocked.keys, role, change, stocked.now)
        shutil.copy(before / "metadata/timestamp.json", stocked.store / "metadata/timestamp.json")
        with pytest.raises(StorageError):
            refresh(stocked.repository, stocked.keys, stocked.now, everything=True)


class TestKeysOfTheFolder:
    def test_one_that_the_store_no_longer_trusts_signs_nothing(self, stocked: Fleet) -> None:
        change = replacement(stocked.keys, stocked.repository.read(), "m-digits", "ed25519")
        rotate(stocked.repository, stocked.keys, "m-digits", change, stocked.now)
        stocked.publish(version="2")
        (signature,) = json.loads(stocked.newest("m-digits").read_bytes())["signatures"]
        assert [signature["keyid"]] == [key.keyid for key in change.add]

    def test_one_that_cannot_be_opened_is_not_needed(self, stocked: Fleet) -> None:
        change = replacement(stocked.keys, stocked.repository.read(), "timestamp", "ed25519")
        rotate(stocked.repository, stocked.keys, "timestamp", change, stocked.now)
        locked = KeyFolder(stocked.keys.path, "lost")
        stocked.keys.file("timestamp").unlink()
        locked.create("timestamp")
        refresh(stocked.repository, stocked.keys, stocked.now)

    def test_publishing_without_the_models_key_makes_none(self, stocked: Fleet) -> None:
        path = stocked.keys.file("m-digits")
        path.unlink()
        with pytest.raises(OperatorError, match=r"m-digits\.pem cannot be read"):
            stocked.publish(version="2")
        assert not path.exists()


class TestBeheaded:
    """A store whose timestamp is lost."""

    def test_it_is_told_from_a_place_without_one(self, stocked: Fleet) -> None:
        (stocked.store / "metadata/timestamp.json").unlink()
        with pytest.raises(StorageError, match="restore it from a backup"):
            stocked.repository.read()

    def test_it_is_not_made_anew(self, stocked: Fleet) -> None:
        (stocked.store / "metadata/timestamp.json").unlink()
        before = files_of(stocked.store)
        with pytest.raises(OperatorError, match="is a store that lacks"):
            stocked.repository.create(stocked.keys, stocked.now)
        assert files_of(stocked.store) == before


def test_a_lost_copy_of_the_root_is_put_back(stocked: Fleet) -> None:
    (stocked.store / "root.json").write_bytes(b"{}")
    refresh(stocked.repository, stocked.keys, stocked.now)
    assert (stocked.store / "root.json").read_bytes() == (stocked.store / "metadata/1.root.json").read_bytes()


def test_a_model_that_is_named_twice_is_retired_once(stocked: Fleet) -> None:
    stocked.publish(version="2")
    (model,) = retire(stocked.repository, stocked.keys, ("digits", "digits"), 1, stocked.now).models
    assert model.kept == 2


def test_a_damaged_deployed_version_keeps_no_new_one_out(stocked: Fleet) -> None:
    (manifest,) = (stocked.store / "targets/models/digits").glob("*.1.json")
    manifest.write_bytes(b"{}")
    assert stocked.publish(version="2").state == "published"
