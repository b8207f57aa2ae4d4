"""The fleet tools: stores that survive interruptions, keys that stay outside, a sentence for each mistake."""

import json
import multiprocessing
import shutil
import signal
import stat
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_agent.documents.errors import ArtifactError, ModelError, OperatorError, StorageError
from edge_agent.documents.manifest import Manifest
from edge_fleet.cli import main
from edge_fleet.keys import KeyFolder, load_key
from edge_fleet.publish import publish, read_package
from edge_fleet.refresh import refresh
from edge_fleet.repository import Repository
from support.cuts import PowerCutError, cut_after
from support.tiny_fleet import Device, Fleet, build_package


def publish_packages(fleet: Fleet, packages: list[Path]) -> None:
    publish(fleet.repository, [read_package(package) for package in packages], fleet.keys, fleet.now)


class TestInterruption:
    def test_a_cut_at_any_write_leaves_a_store_that_devices_read(
        self, fleet: Fleet, device: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fleet.publish(version="1")
        fleet.deploy("digits=1")
        plan = device.sync().plan
        packages = [build_package(fleet.folder, "digits", "2"), build_package(fleet.folder, "other", "1")]
        before = fleet.store.with_name("before")
        shutil.copytree(fleet.store, before)
        cuts = 0
        while True:
            shutil.rmtree(fleet.store)
            shutil.copytree(before, fleet.store)
            with monkeypatch.context() as patch:
                cut_after(patch, cuts)
                try:
                    publish_packages(fleet, packages)
                    break
                except PowerCutError:
                    cuts += 1
            assert device.sync(force=True).plan == plan
            assert list(fleet.repository.read().targets("m-digits")) == ["models/digits/1.json"]
        # Four blobs, two manifests, two model roles, targets, snapshot, timestamp.
        assert cuts == 11
        fleet.deploy("digits=2", "other=1")
        after = device.sync().plan
        assert after is not None
        assert [version.version for version in after.versions] == ["2", "1"]

    def test_a_cut_while_a_store_is_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        repository, keys = Repository(tmp_path / "store"), KeyFolder(tmp_path / "keys")
        for writes in range(20):
            with monkeypatch.context() as patch:
                cut_after(patch, writes)
                try:
                    repository.create(keys, datetime.now(UTC))
                    break
                except PowerCutError:
                    assert not repository.exists()
        assert sorted(repository.read().roles) == ["deployments", "root", "snapshot", "targets", "timestamp"]

    def test_two_publishers_do_not_interleave(self, fleet: Fleet) -> None:
        context = multiprocessing.get_context("spawn")
        packages = [build_package(fleet.folder, "digits", str(number)) for number in range(3)]
        writers = [context.Process(target=publish_packages, args=(fleet, [package])) for package in packages]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        assert [writer.exitcode for writer in writers] == [0, 0, 0]
        assert sorted(fleet.repository.read().targets("m-digits")) == [
            f"models/digits/{n}.json" for n in range(3)
        ]


class TestPublish:
    def test_the_same_again_is_unchanged_and_writes_nothing(self, fleet: Fleet) -> None:
        package = read_package(build_package(fleet.folder))
        (first,) = publish(fleet.repository, [package], fleet.keys, fleet.now)
        timestamp = (fleet.store / "metadata/timestamp.json").read_bytes()
        (again,) = publish(fleet.repository, [package], fleet.keys, fleet.now)
        assert (first.state, again.state) == ("published", "unchanged")
        assert (first.uploaded_bytes, again.uploaded_bytes) == (301_000, 0)
        assert (fleet.store / "metadata/timestamp.json").read_bytes() == timestamp

    def test_the_same_again_repairs_the_store(self, fleet: Fleet) -> None:
        package = read_package(build_package(fleet.folder))
        publish(fleet.repository, [package], fleet.keys, fleet.now)
        shutil.rmtree(fleet.store / "targets/models")
        (blob,) = (path for path in fleet.store.glob("blobs/sha256/*/*") if path.stat().st_size == 300_000)
        blob.write_bytes(b"damaged")
        (again,) = publish(fleet.repository, [package], fleet.keys, fleet.now)
        assert (again.state, again.uploaded_bytes) == ("unchanged", 300_000)
        assert fleet.repository.read().read_target("m-digits", "models/digits/1.json") == package.content

    def test_another_content_for_a_published_version_is_refused_with_all_the_rest(self, fleet: Fleet) -> None:
        fleet.publish(version="1")
        packages = [build_package(fleet.folder, "other", "1"), build_package(fleet.folder, "digits", "1")]
        with pytest.raises(ModelError, match="digits 1 is published already, with other content"):
            publish_packages(fleet, packages)
        assert "m-other" not in fleet.repository.read().delegated

    def test_a_package_that_is_not_consistent_is_refused(self, fleet: Fleet) -> None:
        package = build_package(fleet.folder)
        (model,) = (path for path in package.glob("blobs/sha256/*/*") if path.stat().st_size == 300_000)
        content = model.read_bytes()
        model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ArtifactError, match="does not have the digest"):
            read_package(package)
        model.write_bytes(content + b"x")
        with pytest.raises(ArtifactError, match="has 300001 bytes, its manifest says 300000"):
            read_package(package)
        model.unlink()
        with pytest.raises(ArtifactError, match="The package lacks"):
            read_package(package)

    def test_the_wrong_key_is_refused(self, fleet: Fleet, tmp_path: Path) -> None:
        fleet.publish(version="1")
        other = KeyFolder(tmp_path / "elsewhere")
        for role in ("snapshot", "timestamp"):
            other.create(role)
            shutil.copy(fleet.keys.file(role), other.file(role))
        other.create("m-digits")
        package = read_package(build_package(fleet.folder, version="2"))
        with pytest.raises(OperatorError, match="key given for 'm-digits' is not the one"):
            publish(fleet.repository, [package], other, fleet.now)

    def test_a_models_key_and_the_online_ones_are_enough_for_its_next_version(
        self, fleet: Fleet, tmp_path: Path
    ) -> None:
        fleet.publish(version="1")
        build_server = KeyFolder(tmp_path / "ci")
        build_server.path.mkdir()
        for role in ("m-digits", "snapshot", "timestamp"):
            shutil.copy(fleet.keys.file(role), build_server.file(role))
        package = read_package(build_package(fleet.folder, version="2"))
        publish(fleet.repository, [package], build_server, fleet.now)
        assert len(fleet.repository.read().targets("m-digits")) == 2
        stranger = read_package(build_package(fleet.folder, "other", "1"))
        with pytest.raises(OperatorError, match=r"targets\.pem cannot be read"):
            publish(fleet.repository, [stranger], build_server, fleet.now)


class TestKeys:
    def test_they_are_private_and_outside_the_store(self, fleet: Fleet) -> None:
        for path in fleet.keys.path.glob("*.pem"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(fleet.keys.path.stat().st_mode) == 0o700
        assert b"PRIVATE" not in b"".join(
            path.read_bytes() for path in fleet.store.rglob("*") if path.is_file()
        )
        with pytest.raises(OperatorError, match="lie inside the store"):
            Repository(fleet.folder / "new").create(KeyFolder(fleet.folder / "new" / "keys"), fleet.now)

    def test_a_passphrase_encrypts_them(self, tmp_path: Path) -> None:
        locked = KeyFolder(tmp_path / "keys", "open sesame")
        key = locked.create("root")
        assert b"ENCRYPTED" in locked.file("root").read_bytes()
        loaded = locked.load("root")
        assert loaded.public_key() == key.public_key()
        with pytest.raises(OperatorError, match="set EDGE_FLEET_PASSPHRASE"):
            load_key(locked.file("root"), None)
        with pytest.raises(OperatorError, match="wrong EDGE_FLEET_PASSPHRASE"):
            load_key(locked.file("root"), "guess")
        plain = KeyFolder(tmp_path / "plain")
        plain.create("root")
        assert load_key(plain.file("root"), "open sesame").public_key() == plain.load("root").public_key()

    def test_what_is_no_key_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "x.pem").write_text("nonsense")
        with pytest.raises(OperatorError, match="not a PEM file"):
            load_key(tmp_path / "x.pem", None)


class TestRefresh:
    def test_what_is_online_is_signed_again_in_time(self, fleet: Fleet) -> None:
        soon, late = fleet.now + timedelta(days=6), fleet.now + timedelta(days=70)
        assert refresh(fleet.repository, fleet.keys, soon).renewed == ("snapshot", "timestamp")
        refreshed = refresh(fleet.repository, fleet.keys, late)
        assert refreshed.renewed == ("deployments", "snapshot", "timestamp")
        (warning,) = refreshed.warnings
        assert "targets metadata expires" in warning
        assert refresh(fleet.repository, fleet.keys, late, everything=True).warnings == ()

    def test_everything_means_what_the_folder_has_keys_for(
        self, fleet: Fleet, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fleet.publish(version="1")
        fleet.keys.file("m-digits").unlink()
        fleet.keys.file("root").unlink()
        assert main(["refresh", str(fleet.store), "--all", "--keys", str(fleet.keys.path)]) == 0
        shown = capsys.readouterr().out
        assert "Left, as their keys are not all in this folder: m-digits, root." in shown
        assert "rotate STORE root --renew" in shown

    def test_a_damaged_store_is_told(self, fleet: Fleet) -> None:
        (fleet.store / "metadata/1.targets.json").write_bytes(b"")
        with pytest.raises(StorageError, match=r"1\.targets\.json is damaged"):
            refresh(fleet.repository, fleet.keys, fleet.now)


class TestCommandLine:
    def run(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
        assert main([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def test_from_nothing_to_a_deployment(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, monkey_keys = tmp_path / "store", tmp_path / "keys"
        monkeypatch.setenv("EDGE_FLEET_KEYS", str(monkey_keys))
        packages = [build_package(tmp_path, "digits", version) for version in ("1", "2")]
        created = self.run(capsys, "init", store, "--unencrypted")
        assert Path(created["root"]).is_file()
        published = self.run(capsys, "publish", store, *packages)
        assert [version["state"] for version in published["versions"]] == ["published", "published"]
        deployed = self.run(capsys, "deploy", store, "--model", "digits=1:80,2:20")
        assert deployed["before"] is None
        assert [arm["weight"] for arm in deployed["after"]["stable"]["models"]["digits"]["arms"]] == [80, 20]
        rules = self.run(capsys, "groups", store, "--rule", "site=ulm:south")["groups"]["rules"]
        assert rules == [{"group": "south", "labels": {"site": "ulm"}}]
        assert self.run(capsys, "groups", store)["groups"]["rules"] == rules
        assert self.run(capsys, "refresh", store)["renewed"] == ["snapshot", "timestamp"]
        listed = self.run(capsys, "list", store)
        assert listed["models"] == {"digits": ["1", "2"]}
        assert [deployment["serial"] for deployment in listed["deployments"]] == [1]

    def test_people_get_tables(self, fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
        package = build_package(fleet.folder)
        keys = ["--keys", str(fleet.keys.path)]
        for arguments in (
            ["publish", str(fleet.store), str(package), *keys],
            ["deploy", str(fleet.store), "--model", "digits=1", *keys],
            ["groups", str(fleet.store), "--rule", "id=x:lab", *keys],
            ["refresh", str(fleet.store), *keys],
            ["list", str(fleet.store)],
        ):
            assert main(arguments) == 0
        shown = capsys.readouterr().out
        for text in (
            "published",
            "Group default, serial 1:",
            "id=x",
            "Signed again: snapshot, timestamp.",
            "expires",
        ):
            assert text in shown
        assert "\x1b" not in shown

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["init", "STORE", "--keys", "KEYS"], "is a store already"),
            (["publish", "STORE", "STORE", "--keys", "KEYS"], "is not a package (manifest.json: "),
            (
                ["publish", "KEYS", "PACKAGE", "--keys", "PACKAGE"],
                "KEYS is not a store: create it with edge-fleet init",
            ),
            (["deploy", "STORE", "--keys", "KEYS"], "Nothing to deploy"),
            (
                ["deploy", "STORE", "--model", "digits=9", "--keys", "KEYS"],
                "digits 9 is not published; published are 1",
            ),
            (["deploy", "STORE", "--model", "none=1", "--keys", "KEYS"], "No version of none is published"),
            (["deploy", "STORE", "--model", "digits=1", "--serial", "x", "--keys", "KEYS"], "--serial is 'x'"),
            (["deploy", "STORE", "--model", "digits=1"], "No keys are named"),
            (["deploy", "STORE", "--model", "digits=1", "--keys", "STORE"], "lie inside the store"),
            (["deploy", "STORE", "--model", "digits=1", "--keys", "PACKAGE"], "deployments.pem cannot be read"),
            (["groups", "STORE", "--rule", "x", "--keys", "KEYS"], "'x' is not a rule"),
            (["serve", "PACKAGE"], "PACKAGE is not a store"),
        ],
    )
    def test_a_mistake_gets_one_sentence_and_exit_code_2(
        self,
        fleet: Fleet,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        message: str,
    ) -> None:
        monkeypatch.delenv("EDGE_FLEET_KEYS", raising=False)
        fleet.publish(version="1")
        places = {"STORE": fleet.store, "KEYS": fleet.keys.path, "PACKAGE": build_package(fleet.folder)}
        assert main([str(places.get(argument, argument)) for argument in arguments]) == 2
        captured = capsys.readouterr()
        for name, place in places.items():
            captured = captured._replace(err=captured.err.replace(str(place), name))
        assert captured.out == ""
        assert captured.err.startswith("edge-fleet: ")
        assert captured.err.count("\n") == 1
        assert message in captured.err

    def test_serving_until_told_to_stop(self, fleet: Fleet) -> None:
        command = [sys.executable, "-m", "edge_fleet.cli", "serve", str(fleet.store), "--port", "0", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            url = json.loads(process.stdout.readline())["url"]
            with urllib.request.urlopen(f"{url}/metadata/timestamp.json", timeout=10) as response:
                assert response.status == 200
            assert '"GET /metadata/timestamp.json HTTP/1.1" 200' in process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


def test_unknown_fields_of_a_manifest_are_published_as_they_are(fleet: Fleet) -> None:
    package = build_package(fleet.folder)
    path = package / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "from_the_future": 1}))
    publish_packages(fleet, [package])
    content = fleet.repository.read().read_target("m-digits", "models/digits/1.json")
    assert content == path.read_bytes()
    assert Manifest.model_validate_json(content or b"").name == "digits"
