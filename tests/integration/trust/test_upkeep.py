"""`verify`, `retire` and `gc` on stores with all kinds of damage."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from edge_agent.documents.errors import NotFoundError, RequestError
from edge_agent.documents.manifest import Manifest, patch_path
from edge_fleet.cli import main
from edge_fleet.garbage import Collected, collect_garbage
from edge_fleet.publish import publish, read_package
from edge_fleet.refresh import refresh
from edge_fleet.retire import retire
from edge_fleet.verify import Verified, verify
from support.tiny_fleet import Device, Fleet, build_package, forge

GRACE = timedelta(days=7)


@pytest.fixture
def stocked(fleet: Fleet) -> Fleet:
    fleet.publish(version="1", size_bytes=2_000_000)
    fleet.publish("other", version="1", size_bytes=1000)
    fleet.deploy("digits=1")
    return fleet


def check(fleet: Fleet, **arguments: Any) -> Verified:
    return verify(fleet.repository, fleet.now, **arguments)


class TestVerify:
    def test_a_sound_store(self, stocked: Fleet) -> None:
        read: list[int] = []
        totals: list[int] = []

        def show(total: int) -> Callable[[int], None]:
            totals.append(total)
            return read.append

        checked = check(stocked, show=show)
        assert (checked.findings, checked.exit_code, checked.blobs) == ((), 0, 4)
        assert [sum(read)] == totals == [2_003_000]

    @pytest.mark.parametrize("damage", ["lost", "cut", "changed"])
    def test_a_blob(self, stocked: Fleet, damage: str) -> None:
        (blob,) = (path for path in stocked.store.glob("blobs/sha256/*/*") if path.stat().st_size == 2_000_000)
        content = blob.read_bytes()
        match damage:
            case "lost":
                blob.unlink()
                says = "The store lacks"
            case "cut":
                blob.write_bytes(content[:-1])
                says = "has 1999999 bytes instead of 2000000"
            case _:
                blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
                says = "does not have the digest that is its name"
        (finding,) = check(stocked).findings
        assert says in finding
        assert blob.name in finding

    def test_a_manifest(self, stocked: Fleet) -> None:
        (path,) = stocked.store.glob("targets/models/digits/*.1.json")
        path.write_bytes(path.read_bytes() + b" ")
        (finding,) = check(stocked).findings
        assert "is not the file that m-digits signed" in finding

    def test_metadata_that_was_changed(self, stocked: Fleet) -> None:
        forge(stocked.newest("m-digits"), lambda signed: signed.update({"x": 1}))
        assert [finding.partition(" ")[2] for finding in check(stocked).findings] == [
            "is not the file that was signed for: its length or digest differs.",
            "is signed by 0 of 1 keys that targets 3 trusts.",
        ]

    def test_roots(self, stocked: Fleet) -> None:
        (stocked.store / "root.json").write_bytes(b"{}")
        assert check(stocked).findings == (
            "root.json is not a copy of the newest root: run edge-fleet refresh.",
        )
        shutil.copy(stocked.store / "metadata/1.root.json", stocked.store / "root.json")
        forge(
            stocked.store / "metadata/1.root.json",
            lambda signed: signed["roles"]["root"].update(threshold=1, x=1),
        )
        assert any("1.root.json is signed by 0 of 1 keys" in finding for finding in check(stocked).findings)

    def test_expiry(self, stocked: Fleet) -> None:
        late = verify(stocked.repository, stocked.now + timedelta(days=8))
        assert [finding.partition(" on ")[0] for finding in late.findings] == [
            "metadata/timestamp.json expired",
            "metadata/4.snapshot.json expired",
        ]
        soon = verify(stocked.repository, stocked.now + timedelta(days=6))
        assert soon.findings == ()
        assert len(soon.warnings) == 2

    @pytest.mark.parametrize("role", ["root", "snapshot", "targets", "m-digits"])
    def test_what_is_lost(self, stocked: Fleet, role: str) -> None:
        stocked.newest(role).unlink()
        assert any(f".{role}.json" in finding for finding in check(stocked).findings)

    @pytest.mark.parametrize("role", ["root", "snapshot", "targets", "m-digits", "timestamp"])
    def test_what_is_garbage(self, stocked: Fleet, role: str) -> None:
        path = stocked.store / "metadata/timestamp.json" if role == "timestamp" else stocked.newest(role)
        path.write_bytes(b"\x00{")
        assert any(path.name in finding and "damaged" in finding for finding in check(stocked).findings)

    def test_a_deployment_of_what_is_not_signed(self, stocked: Fleet) -> None:
        with stocked.repository.editing(stocked.keys, stocked.now) as edit:
            edit.drop_target("m-digits", "models/digits/1.json")
        (finding,) = check(stocked).findings
        assert "names models/digits/1.json, which nobody has signed" in finding

    def test_the_command(self, stocked: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", str(stocked.store)]) == 0
        assert "4 blobs (1.9 MiB): all is well." in capsys.readouterr().out
        shutil.rmtree(stocked.store / "blobs")
        assert main(["verify", str(stocked.store), "--json"]) == 1
        assert len(json.loads(capsys.readouterr().out)["findings"]) == 4
        assert main(["verify", str(stocked.store / "none")]) == 2


class TestRetire:
    @pytest.fixture
    def full(self, fleet: Fleet) -> Fleet:
        packages = [
            read_package(build_package(fleet.folder, name, str(n), 1000))
            for name in ("digits", "other")
            for n in range(12)
        ]
        publish(fleet.repository, packages, fleet.keys, fleet.now)
        return fleet

    def test_the_newest_and_the_deployed_stay(self, full: Fleet, device: Device) -> None:
        full.deploy("digits=2")
        full.deploy(candidate={"digits": full.arms("4")}, group="default", percentage=10.0)
        retired = retire(full.repository, full.keys, (), 3, full.now)
        digits, other = retired.models
        assert (digits.kept, digits.deployed) == (5, ("2", "4"))
        assert digits.retired == ("0", "1", "3", "5", "6", "7", "8")
        assert (other.kept, len(other.retired)) == (3, 9)
        assert set(full.repository.read().targets("m-other")) == {f"models/other/{n}.json" for n in (9, 10, 11)}
        assert check(full).findings == ()
        assert device.sync().plan is not None
        assert all(model.retired == () for model in retire(full.repository, full.keys, (), 3, full.now).models)

    def test_one_model(self, full: Fleet) -> None:
        assert [m.model for m in retire(full.repository, full.keys, ("other",), 3, full.now).models] == [
            "other"
        ]
        assert len(full.repository.read().targets("m-digits")) == 12

    def test_a_dry_run_changes_nothing(self, full: Fleet) -> None:
        before = (full.store / "metadata/timestamp.json").read_bytes()
        assert len(retire(full.repository, full.keys, (), 3, full.now, dry_run=True).models[0].retired) == 9
        assert (full.store / "metadata/timestamp.json").read_bytes() == before

    def test_mistakes(self, full: Fleet) -> None:
        with pytest.raises(RequestError, match="keep one version at least"):
            retire(full.repository, full.keys, (), 0, full.now)
        with pytest.raises(NotFoundError, match="No version of none is published; the store has digits, other"):
            retire(full.repository, full.keys, ("none",), 3, full.now)

    def test_the_command(self, full: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["retire", str(full.store), "--keep", "3", "--keys", str(full.keys.path)]) == 0
        shown = capsys.readouterr().out
        assert "9: 0 … 8" in shown
        assert "edge-fleet gc removes them" in shown


class TestGarbage:
    def collect(self, fleet: Fleet, days: float) -> Collected:
        return collect_garbage(fleet.repository, fleet.now + timedelta(days=days), GRACE)

    def test_what_was_current_within_the_grace_stays(self, stocked: Fleet) -> None:
        stocked.publish(version="2")
        stocked.deploy("digits=2")
        retire(stocked.repository, stocked.keys, (), 1, stocked.now)
        before = sorted(path for path in stocked.store.rglob("*") if path.is_file())
        assert self.collect(stocked, 6) == Collected(0, 0, 0, 0, freed_bytes=0, dry_run=False)
        assert sorted(path for path in stocked.store.rglob("*") if path.is_file()) == before

    def test_what_is_older_goes(self, stocked: Fleet, device: Device) -> None:
        stocked.publish(version="2")
        stocked.deploy("digits=2")
        retire(stocked.repository, stocked.keys, (), 1, stocked.now)
        collected = self.collect(stocked, 8)
        assert (collected.manifests, collected.blobs) == (1, 2)
        assert collected.freed_bytes > 2_000_000
        assert check(stocked).findings == ()
        plan = device.sync().plan
        assert plan is not None
        assert [version.version for version in plan.versions] == ["2"]
        assert (stocked.store / "metadata/1.root.json").is_file()
        assert len(list(stocked.store.glob("targets/deployments/*.default.json"))) == 2

    def test_what_old_metadata_leads_to_stays_with_it(self, stocked: Fleet) -> None:
        """A version that was retired a minute ago, in a store that was not touched for a year before."""
        stocked.publish(version="2")
        stocked.deploy("digits=2")
        year_ago = stocked.now.timestamp() - 365 * 86_400
        for path in stocked.store.rglob("*"):
            os.utime(path, (year_ago, year_ago))
        retire(stocked.repository, stocked.keys, (), 1, stocked.now)
        collected = collect_garbage(stocked.repository, stocked.now, GRACE)
        assert (collected.manifests, collected.blobs) == (0, 0)
        assert collected.metadata > 0

    def test_patches_go_with_what_they_lead_from_or_to(self, stocked: Fleet) -> None:
        stocked.publish(version="2")
        digests = {
            version: Manifest.model_validate_json(
                stocked.repository.read().read_target("m-digits", f"models/digits/{version}.json") or b""
            )
            .variants[0]
            .file.sha256
            for version in ("1", "2")
        }
        needed, gone = patch_path(digests["2"], digests["1"]), patch_path(digests["2"], "0" * 64)
        for name in (needed, gone):
            stocked.repository.files.write(name, b"")
        assert self.collect(stocked, 8).patches == 1
        assert stocked.repository.files.exists(needed)
        stocked.deploy("digits=2")
        retire(stocked.repository, stocked.keys, (), 1, stocked.now)
        assert self.collect(stocked, 8).patches == 1

    def test_what_an_interrupted_edit_left_goes(self, stocked: Fleet) -> None:
        (stocked.store / "metadata/99.snapshot.json").write_bytes(b"{}")
        (stocked.store / "blobs/sha256/00").mkdir(exist_ok=True)
        (stocked.store / "blobs/sha256/00/left").write_bytes(b"x")
        self.collect(stocked, 8)
        assert not (stocked.store / "metadata/99.snapshot.json").exists()
        assert not (stocked.store / "blobs/sha256/00/left").exists()
        assert check(stocked).findings == ()
        refresh(stocked.repository, stocked.keys, stocked.now)

    def test_a_dry_run_removes_nothing(self, stocked: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
        before = sorted(stocked.store.rglob("*"))
        assert main(["gc", str(stocked.store), "--grace-days", "0", "--dry-run"]) == 0
        assert "Would remove" in capsys.readouterr().out
        assert sorted(stocked.store.rglob("*")) == before
        assert main(["gc", str(stocked.store), "--grace-days", "-1"]) == 2


def test_every_command_warns_of_what_expires_soon(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = replace(fleet, folder=fleet.folder.with_name("earlier"), now=fleet.now - timedelta(days=6))
    earlier.repository.create(earlier.keys, earlier.now)
    assert main(["groups", str(earlier.store)]) == 0
    said = capsys.readouterr().err
    assert said.count("edge-fleet: warning: The store's ") == 2
    assert "edge-fleet refresh" in said
    assert main(["groups", str(fleet.store)]) == 0
    assert capsys.readouterr().err == ""
