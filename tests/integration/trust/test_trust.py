"""What a hostile or broken store, a wrong clock and a damaged disk can do to a device's trust: nothing."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.control.fetch import FolderStore
from edge_agent.control.trust import Trust
from edge_agent.documents.errors import ArtifactError, StoreUnreachableError, TrustError
from edge_agent.policy.trusted_time import Times
from edge_fleet.keys import KeyFolder
from edge_fleet.refresh import refresh
from edge_fleet.repository import Repository
from edge_fleet.static_server import StaticServer
from support.tiny_fleet import Device, Fleet


def copy(store: Path, name: str) -> Path:
    """Keep the store as it is now."""
    kept = store.with_name(name)
    shutil.copytree(store, kept)
    return kept


def restore(kept: Path, store: Path) -> None:
    shutil.rmtree(store)
    shutil.copytree(kept, store)


def metadata(device: Device) -> Path:
    return device.layout.trust / "current"


def damage(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def marks(device: Device) -> dict[str, int]:
    versions: dict[str, int] = json.loads((device.layout.trust / "versions.json").read_bytes())["versions"]
    return versions


@pytest.fixture
def running(fleet: Fleet, device: Device) -> Device:
    """A device that runs digits 1."""
    fleet.publish(version="1")
    fleet.deploy("digits=1")
    device.sync()
    return device


class TestSignatures:
    @pytest.mark.parametrize("role", ["timestamp", "2.snapshot", "1.deployments", "1.targets"])
    def test_metadata_that_was_changed_is_refused(self, fleet: Fleet, device: Device, role: str) -> None:
        snapshot = max(fleet.store.glob("metadata/*.snapshot.json"))
        path = snapshot if "snapshot" in role else fleet.store / "metadata" / f"{role}.json"
        path.write_bytes(path.read_bytes().replace(b'"expires":"20', b'"expires":"21'))
        with pytest.raises(TrustError, match=r"^The store's metadata is not"):
            device.sync()
        assert not metadata(device).joinpath("targets.json").exists() or role != "1.targets"

    def test_a_root_of_another_store_is_refused(self, device: Device, tmp_path: Path) -> None:
        other = Repository(tmp_path / "other")
        other.create(KeyFolder(tmp_path / "other-keys"), datetime.now(UTC))
        Path(device.settings.store.root or "").write_bytes(other.files.read("root.json"))
        with pytest.raises(
            TrustError, match=r"not signed by the keys that this device trusts .* check that store.root"
        ):
            device.sync()

    @pytest.mark.parametrize("content", [b"", b"{}", b"[" * 10_000, b'{"signed": {}}', b"<html>"])
    def test_a_root_that_is_none_is_refused(self, device: Device, content: bytes) -> None:
        Path(device.settings.store.root or "").write_bytes(content)
        with pytest.raises(TrustError, match="malformed"):
            device.sync()

    @pytest.mark.parametrize("content", [b"", b"{}", b"[" * 10_000, b'{"signed": {}}'])
    def test_garbage_is_refused(self, fleet: Fleet, device: Device, content: bytes) -> None:
        (fleet.store / "metadata/timestamp.json").write_bytes(content)
        with pytest.raises(TrustError, match="malformed"):
            device.sync()

    def test_endless_metadata_is_cut_off(self, fleet: Fleet, device: Device) -> None:
        (fleet.store / "metadata/timestamp.json").write_bytes(b" " * 10**6)
        with pytest.raises(StoreUnreachableError, match="longer than the 16384 bytes"):
            device.sync()

    def test_a_tampered_manifest_is_refused(self, fleet: Fleet, device: Device) -> None:
        fleet.publish(version="1")
        fleet.deploy("digits=1")
        (manifest,) = fleet.store.glob("targets/models/digits/*.json")
        manifest.write_bytes(manifest.read_bytes().replace(b'"onnx"', b'"ONNX"'))
        with pytest.raises(ArtifactError, match=r"models/digits/1\.json is not the file that was signed"):
            device.sync()

    def test_a_model_key_cannot_sign_for_another_model(self, fleet: Fleet, device: Device) -> None:
        fleet.publish("digits", "1")
        fleet.publish("other", "1")
        content = fleet.repository.read().read_target("m-digits", "models/digits/1.json")
        assert content is not None
        fleet.sign("m-other", "models/digits/2.json", content)
        with device.trust() as trust:
            trust.refresh()
            assert trust.target("models/digits/1.json") == content
            assert trust.target("models/digits/2.json") is None

    def test_a_target_is_no_longer_than_allowed(self, fleet: Fleet, device: Device) -> None:
        with device.trust() as trust:
            trust.refresh()
            with pytest.raises(ArtifactError, match="more than 10 allowed"):
                trust.target("deployments/groups.json", max_bytes=10)


class TestTime:
    def test_expired_metadata_is_refused_with_role_date_and_remedy(self, running: Device, fleet: Fleet) -> None:
        fleet.now -= timedelta(days=8)
        fleet.deploy("digits=1")
        with pytest.raises(
            TrustError,
            match=r"timestamp metadata expired on .* UTC: refresh the store \(edge-fleet refresh\); .*clock",
        ):
            running.sync()

    def test_refreshing_brings_it_back(self, running: Device, fleet: Fleet) -> None:
        fleet.now -= timedelta(days=8)
        fleet.deploy("digits=1")
        with pytest.raises(TrustError):
            running.sync()
        refresh(fleet.repository, fleet.keys, datetime.now(UTC))
        assert running.sync().status == "plan"

    def test_expiry_that_comes_near_is_a_warning(self, fleet: Fleet, device: Device) -> None:
        fleet.now -= timedelta(days=5)
        fleet.publish()
        fleet.deploy("digits=1")
        warnings = device.sync().warnings
        assert len(warnings) == 2
        assert all("expires on" in warning for warning in warnings)


class TestRollback:
    def test_an_older_store_is_refused(self, running: Device, fleet: Fleet) -> None:
        old = copy(fleet.store, "old")
        fleet.deploy("digits=1")
        running.sync()
        restore(old, fleet.store)
        with pytest.raises(TrustError, match="goes back"):
            running.sync(force=True)

    @pytest.mark.parametrize("loss", ["zeroed timestamp and snapshot", "no folder", "no link"])
    def test_losing_the_metadata_does_not_open_the_door(self, running: Device, fleet: Fleet, loss: str) -> None:
        old = copy(fleet.store, "old")
        fleet.deploy("digits=1")
        plan = running.sync().plan
        if loss == "no folder":
            shutil.rmtree(metadata(running).resolve())
        elif loss == "no link":
            metadata(running).unlink()
        else:
            damage(metadata(running) / "timestamp.json")
            damage(metadata(running) / "snapshot.json")
        new = copy(fleet.store, "new")
        restore(old, fleet.store)
        for _ in range(2):
            with pytest.raises(
                TrustError, match=r"went back: its .* metadata has version \d+, this device has seen"
            ):
                running.sync()
        restore(new, fleet.store)
        assert running.sync(force=True).plan == plan

    def test_damaged_metadata_is_fetched_again(self, running: Device, fleet: Fleet) -> None:
        for path in metadata(running).glob("*.json"):
            damage(path)
        assert running.sync(force=True).status == "plan"
        assert json.loads((metadata(running) / "timestamp.json").read_bytes())

    def test_damaged_metadata_cannot_raise_the_record(self, running: Device, fleet: Fleet) -> None:
        before = marks(running)
        path = metadata(running) / "snapshot.json"
        path.write_bytes(path.read_bytes().replace(b'"version":', b'"version":9'))
        (fleet.store / "metadata/timestamp.json").unlink()
        with pytest.raises(StoreUnreachableError):
            running.sync()
        assert marks(running) == before

    def test_a_damaged_record_is_told_and_starts_again(self, running: Device, fleet: Fleet) -> None:
        before = marks(running)
        damage(running.layout.trust / "versions.json")
        (warning,) = running.sync(force=True).warnings
        assert "versions.json was damaged" in warning
        assert marks(running) == before

    def test_a_lower_serial_is_refused(self, running: Device, fleet: Fleet) -> None:
        old = fleet.repository.read().read_target("deployments", "deployments/default.json")
        assert old is not None
        fleet.deploy("digits=1")
        running.sync()
        fleet.sign("deployments", "deployments/default.json", old)
        with pytest.raises(TrustError, match="has serial 1, this device has seen 2"):
            running.sync()

    def test_what_was_seen_counts_though_the_sync_failed_later(self, running: Device, fleet: Fleet) -> None:
        old = copy(fleet.store, "old")
        fleet.deploy("digits=1")
        snapshot = max(
            fleet.store.glob("metadata/*.snapshot.json"), key=lambda path: int(path.name.split(".")[0])
        )
        snapshot.unlink()
        with pytest.raises(StoreUnreachableError):
            running.sync()
        restore(old, fleet.store)
        with pytest.raises(TrustError, match="goes back"):
            running.sync()


class TestFolder:
    """The trusted metadata on disk."""

    def test_it_is_switched_whole_and_nothing_is_left_over(self, running: Device, fleet: Fleet) -> None:
        first = metadata(running).readlink()
        (running.layout.trust / "77").mkdir()
        fleet.deploy("digits=1")
        running.sync()
        second = metadata(running).readlink()
        assert first != second
        assert sorted(path.name for path in running.layout.trust.iterdir()) == sorted(
            ["current", "last_sync.json", "versions.json", str(second)]
        )

    def test_nothing_goes_through_the_folder_for_temporary_files(
        self, running: Device, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fleet.publish(version="2")
        fleet.deploy("digits=2")
        monkeypatch.setattr("tempfile.tempdir", "/nowhere")
        assert running.sync().status == "plan"

    def test_without_news_nothing_is_written(self, running: Device) -> None:
        def state() -> dict[str, int]:
            return {str(path): path.stat().st_mtime_ns for path in running.layout.trust.rglob("*.json")}

        before, link = state(), metadata(running).readlink()
        assert running.sync(force=True).status == "plan"
        assert (state(), metadata(running).readlink()) == (before, link)


class TestRoots:
    """A root signed anew, and keys replaced."""

    def test_a_device_follows_new_roots_from_its_first_one(self, running: Device, fleet: Fleet) -> None:
        for _ in range(2):
            refresh(fleet.repository, fleet.keys, fleet.now, everything=True)
        assert running.sync().status == "plan"
        assert marks(running)["root"] == 3

    def test_a_root_that_is_withheld_is_told_until_it_comes(self, running: Device, fleet: Fleet) -> None:
        refresh(fleet.repository, fleet.keys, fleet.now, everything=True)
        withheld = fleet.store / "metadata/2.root.json"
        content = withheld.read_bytes()
        withheld.unlink()
        for _ in range(2):
            (warning,) = running.sync().warnings
            assert warning == (
                "The store has root metadata of version 2, but gives out none after version 1: see that "
                "metadata/2.root.json can be fetched from it."
            )
        withheld.write_bytes(content)
        assert running.sync().warnings == ()
        assert marks(running)["root"] == 2

    def test_an_older_root_after_the_metadata_was_lost_is_refused(self, running: Device, fleet: Fleet) -> None:
        refresh(fleet.repository, fleet.keys, fleet.now, everything=True)
        running.sync()
        shutil.rmtree(metadata(running).resolve())
        (fleet.store / "metadata/2.root.json").unlink()
        with pytest.raises(TrustError, match="its root metadata has version 1, this device has seen 2"):
            running.sync(force=True)


class TestStores:
    def test_a_captive_portal_is_no_signature_error(self, device: Device, portal: str) -> None:
        with pytest.raises(StoreUnreachableError, match="a web page instead of the file: log in"):
            device.with_store(url=portal).sync()

    def test_a_wrong_address_is_told(
        self, device: Device, serve: Callable[[Path], StaticServer], tmp_path: Path
    ) -> None:
        with pytest.raises(StoreUnreachableError, match=r"has no http://.*timestamp\.json \(HTTP 404\)"):
            device.with_store(url=serve(tmp_path).url).sync()

    def test_a_stall_ends_after_the_timeout(self, device: Device, stalling: str) -> None:
        with pytest.raises(StoreUnreachableError, match="did not answer in time"):
            device.with_store(url=stalling, timeout_s=0.2).sync()

    def test_a_drip_ends_too(self, device: Device, dripping: str) -> None:
        with pytest.raises(StoreUnreachableError, match=r"sent only \d+ bytes in 0.2 s"):
            device.with_store(url=dripping, timeout_s=0.2).sync()


def test_a_folder_is_a_store_for_trust_alone(fleet: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "trust"
    folder.mkdir()
    root = (fleet.store / "root.json").read_bytes()
    with Trust(folder, FolderStore(fleet.store), root, Times(fleet.now)) as trust:
        trust.refresh()
        assert trust.target("deployments/groups.json") is not None
        assert trust.target("deployments/none.json") is None
        assert sorted(trust.expires_s) == ["deployments", "root", "snapshot", "targets", "timestamp"]
