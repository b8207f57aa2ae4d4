"""Other keys: root ceremonies in steps, and devices that follow them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edge_agent.documents.errors import OperatorError, RequestError, TrustError
from edge_fleet.cli import main
from edge_fleet.keys import KeyFolder
from edge_fleet.refresh import refresh
from edge_fleet.repository import Repository
from edge_fleet.rotate import apply, propose, replacement, rotate, trusted
from edge_fleet.trust.proposal import Change
from edge_fleet.trust.signers import load_signers, read_key
from support.cuts import PowerCutError, cut_after
from support.tiny_fleet import Device, Fleet


@pytest.fixture
def people(tmp_path: Path) -> dict[str, KeyFolder]:
    """Key folders of three people, as on machines of their own."""
    folders = {name: KeyFolder(tmp_path / name) for name in ("alice", "bob", "carol")}
    for name, folder in folders.items():
        folder.create(f"root.{name}", "ecdsa" if name == "bob" else "ed25519")
    return folders


def keyid(people: dict[str, KeyFolder], name: str) -> str:
    return read_key(people[name], f"root.{name}").keyid


def hand_over(fleet: Fleet, people: dict[str, KeyFolder]) -> None:
    """Replace the root key of the store's first day by two of three people."""
    change = Change(
        add=tuple(read_key(folder, f"root.{name}") for name, folder in people.items()),
        remove=trusted(fleet.repository.read(), "root").keyids,
        threshold=2,
    )
    proposal = propose(fleet.repository.read(), "root", change, fleet.now)
    proposal.sign(load_signers(fleet.keys, "root"))
    for name in ("alice", "carol"):
        proposal.sign(load_signers(people[name], "root"))
    apply(fleet.repository, proposal, fleet.keys, fleet.now)


def release(fleet: Fleet, version: str) -> None:
    fleet.publish(version=version)
    fleet.deploy(f"digits={version}")


def version_on(device: Device) -> str:
    result = device.sync()
    assert result.plan is not None
    (version,) = result.plan.versions
    return version.version


class TestCeremony:
    def test_devices_follow_a_hand_over_to_two_of_three(
        self, fleet: Fleet, device: Device, people: dict[str, KeyFolder]
    ) -> None:
        release(fleet, "1")
        assert version_on(device) == "1"
        hand_over(fleet, people)
        release(fleet, "2")
        assert version_on(device) == "2"
        assert trusted(fleet.repository.read(), "root").threshold == 2

    def test_a_device_that_was_away_follows_three_rotations_at_once(
        self, fleet: Fleet, device: Device, people: dict[str, KeyFolder]
    ) -> None:
        release(fleet, "1")
        assert version_on(device) == "1"
        hand_over(fleet, people)
        for role in ("timestamp", "targets"):
            change = replacement(fleet.keys, fleet.repository.read(), role, "ecdsa")
            proposal = propose(fleet.repository.read(), role, change, fleet.now)
            for name in ("bob", "carol"):
                proposal.sign(load_signers(people[name], "root"))
            apply(fleet.repository, proposal, fleet.keys, fleet.now)
        release(fleet, "2")
        assert version_on(device) == "2"
        kept = json.loads((device.layout.trust / "current/root.json").read_bytes())
        assert kept["signed"]["version"] == 4

    def test_it_takes_the_signatures_of_old_and_new(
        self, fleet: Fleet, people: dict[str, KeyFolder], tmp_path: Path
    ) -> None:
        hand_over(fleet, people)
        change = Change(remove=(keyid(people, "carol")[:10],), threshold=2)
        proposal = propose(fleet.repository.read(), "root", change, fleet.now)
        with pytest.raises(TrustError, match=r"lacks 2 of 2 signatures by keys of the old root"):
            apply(fleet.repository, proposal, fleet.keys, fleet.now)
        # Carol may help to meet the old threshold, the new one takes Bob.
        for name in ("alice", "carol"):
            proposal.sign(load_signers(people[name], "root"))
        with pytest.raises(TrustError, match=r"lacks 1 of 2 signatures by keys of the new root"):
            apply(fleet.repository, proposal, fleet.keys, fleet.now)
        assert trusted(fleet.repository.read(), "root").threshold == 2
        proposal.sign(load_signers(people["bob"], "root"))
        apply(fleet.repository, proposal, fleet.keys, fleet.now)
        assert keyid(people, "carol") not in trusted(fleet.repository.read(), "root").keyids
        # From now on Carol has no say.
        renewal = propose(fleet.repository.read(), "root", Change(), fleet.now)
        with pytest.raises(OperatorError, match="None of these keys of 'root' counts"):
            renewal.sign(load_signers(people["carol"], "root"))

    def test_devices_refuse_the_signature_of_a_removed_key(
        self, fleet: Fleet, device: Device, people: dict[str, KeyFolder]
    ) -> None:
        release(fleet, "1")
        assert version_on(device) == "1"
        first_day = load_signers(fleet.keys, "root")
        hand_over(fleet, people)
        assert version_on(device) == "1"
        root = fleet.repository.read().roles["root"]
        root.signed.version += 1
        root.sign(first_day[0])
        root.sign(load_signers(people["alice"], "root")[0], append=True)
        (fleet.store / f"metadata/{root.signed.version}.root.json").write_bytes(root.to_bytes())
        with pytest.raises(TrustError, match="root was signed by 1/2 keys"):
            device.sync(force=True)

    def test_a_proposal_for_another_root_is_refused(self, fleet: Fleet, people: dict[str, KeyFolder]) -> None:
        outdated = propose(fleet.repository.read(), "root", Change(), fleet.now)
        outdated.sign(load_signers(fleet.keys, "root"))
        hand_over(fleet, people)
        with pytest.raises(RequestError, match=r"follows root 1, and the store has another one \(2\)"):
            apply(fleet.repository, outdated, fleet.keys, fleet.now)

    def test_who_signs_may_name_the_root_that_it_must_follow(
        self, fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = Fleet(tmp_path / "other")
        other.repository.create(other.keys, other.now)
        file = tmp_path / "p"
        propose(fleet.repository.read(), "root", Change(), fleet.now).write(file)
        sign = ["sign", str(file), "--keys", str(fleet.keys.path), "--root"]
        assert main([*sign, str(other.store / "root.json")]) == 1
        assert "does not follow the root of" in capsys.readouterr().err
        assert main([*sign, str(tmp_path / "none")]) == 2
        assert main([*sign, str(fleet.store / "root.json")]) == 0

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (Change(threshold=2), "would have 1 keys and need 2"),
            (Change(threshold=0), "would have 1 keys and need 0"),
            (Change(remove=("zz",)), "0 keys of 'root' begin with zz"),
        ],
    )
    def test_what_cannot_be_met_is_refused(self, fleet: Fleet, change: Change, says: str) -> None:
        with pytest.raises(RequestError, match=says):
            propose(fleet.repository.read(), "root", change, fleet.now)


class TestFirstRoot:
    def test_a_threshold_from_the_first_day_on(self, tmp_path: Path) -> None:
        fleet = Fleet(tmp_path)
        for name in ("alice", "bob"):
            fleet.keys.create(f"root.{name}")
        fleet.repository.create(fleet.keys, fleet.now, threshold=2)
        root = fleet.repository.read().roles["root"]
        assert (len(root.signatures), trusted(fleet.repository.read(), "root").threshold) == (2, 2)
        fleet.keys.files("root")[0].unlink()
        refreshed = refresh(fleet.repository, fleet.keys, fleet.now, everything=True)
        assert refreshed.left == ("root",)
        assert refreshed.renewed == ("deployments", "snapshot", "targets", "timestamp")
        with pytest.raises(TrustError, match="lacks 1 of 2 signatures"):
            rotate(fleet.repository, fleet.keys, "root", Change(), fleet.now)

    def test_more_than_there_are_keys(self, tmp_path: Path) -> None:
        fleet = Fleet(tmp_path)
        with pytest.raises(RequestError, match="has 1 keys of root, and --threshold is 2"):
            fleet.repository.create(fleet.keys, fleet.now, threshold=2)


class TestOnlineAndModelKeys:
    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "deployments", "m-digits"])
    def test_devices_follow_a_new_key(self, fleet: Fleet, device: Device, role: str) -> None:
        release(fleet, "1")
        assert version_on(device) == "1"
        change = replacement(fleet.keys, fleet.repository.read(), role, "ecdsa")
        rotate(fleet.repository, fleet.keys, role, change, fleet.now)
        assert version_on(device) == "1"
        release(fleet, "2")
        assert version_on(device) == "2"
        assert trusted(fleet.repository.read(), role).keyids == (read_key(fleet.keys, f"{role}.2").keyid,)

    def test_the_old_key_signs_nothing_more(self, fleet: Fleet, tmp_path: Path) -> None:
        release(fleet, "1")
        old = KeyFolder(tmp_path / "old")
        shutil.copytree(fleet.keys.path, old.path)
        change = replacement(fleet.keys, fleet.repository.read(), "m-digits", "ed25519")
        rotate(fleet.repository, fleet.keys, "m-digits", change, fleet.now)
        with pytest.raises(OperatorError, match="key given for 'm-digits' is not the one"):
            replace_keys(fleet, old).publish(version="2")

    def test_a_lost_key_is_replaced(self, fleet: Fleet, device: Device) -> None:
        release(fleet, "1")
        for role in ("timestamp", "m-digits"):
            fleet.keys.file(role).unlink()
            change = replacement(fleet.keys, fleet.repository.read(), role, "ed25519")
            rotate(fleet.repository, fleet.keys, role, change, fleet.now)
        release(fleet, "2")
        assert version_on(device) == "2"

    @pytest.mark.parametrize("role", ["timestamp", "targets", "snapshot"])
    def test_a_cut_at_any_write_leaves_a_store_that_devices_read(
        self, fleet: Fleet, device: Device, role: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        release(fleet, "1")
        plan = device.sync().plan
        change = replacement(fleet.keys, fleet.repository.read(), role, "ed25519")
        for writes in range(30):
            with monkeypatch.context() as patch:
                cut_after(patch, writes)
                try:
                    rotate(Repository(fleet.store), fleet.keys, role, change, fleet.now)
                    break
                except PowerCutError:
                    pass
                except RequestError:
                    break  # The root was written before the cut: the rotation has happened.
            assert device.sync(force=True).plan == plan
        assert writes > 2
        release(fleet, "2")
        assert version_on(device) == "2"


def replace_keys(fleet: Fleet, keys: KeyFolder) -> Fleet:
    class Other(Fleet):
        @property
        def keys(self) -> KeyFolder:
            return keys

    return Other(fleet.folder, fleet.now)


class TestCommandLine:
    def run(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
        assert main([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def test_a_ceremony_on_three_machines(
        self, fleet: Fleet, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        release(fleet, "1")
        assert version_on(device) == "1"
        store = ["--keys", fleet.keys.path]
        publics = []
        for name in ("alice", "bob"):
            made = self.run(
                capsys, "keys", "create", f"root.{name}", "--keys", tmp_path / name, "--unencrypted"
            )
            public = tmp_path / f"{name}.pem"
            exported = self.run(
                capsys, "keys", "export", f"root.{name}", "--keys", tmp_path / name, "--out", public
            )
            assert exported["keyid"] == made["keyid"]
            assert public.read_text().startswith("-----BEGIN PUBLIC KEY-----")
            publics += ["--add", public]
        file = tmp_path / "root.proposal"
        proposed = self.run(
            capsys, "rotate", fleet.store, "root", *publics, "--threshold", 2, "--proposal", file, *store
        )
        assert proposed["version"] == 2
        assert "root needs 2 signatures instead of 1" in proposed["changes"]
        copy = tmp_path / "copy.proposal"
        shutil.copy(file, copy)
        self.run(capsys, "sign", file, "--keys", tmp_path / "alice")
        assert main(["apply", str(fleet.store), str(file), *map(str, store)]) == 1
        assert "lacks 1 of 1 signatures by keys of the old root" in capsys.readouterr().err
        signed = self.run(capsys, "sign", copy, "--keys", fleet.keys.path)
        assert [len(progress["signed"]) for progress in signed["progress"]] == [1, 1]
        applied = self.run(capsys, "apply", fleet.store, file, copy, *store)
        assert applied["root"] == 2
        listed = self.run(capsys, "keys", "list", "--store", fleet.store, "--keys", tmp_path / "bob")
        assert [key["trusted_by"] for key in listed["keys"]] == [["root"]]
        assert version_on(device) == "1"

    def test_people_read_what_they_sign(
        self, fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        keys = ["--keys", str(fleet.keys.path)]
        store, file = str(fleet.store), str(tmp_path / "p")
        assert main(["rotate", store, "timestamp", "--new-key", "--proposal", file, *keys]) == 0
        assert main(["sign", file, *keys]) == 0
        assert main(["apply", store, file, *keys]) == 0
        assert main(["keys", "list", "--store", store, *keys]) == 0
        shown = capsys.readouterr().out
        for text in (
            "timestamp trusts",
            "It is complete: publish it with edge-fleet apply.",
            "The store trusts, by root 2:",
            "timestamp.2.pem",
        ):
            assert text in shown

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["rotate", "STORE", "root", "--keys", "KEYS"], "Nothing to change"),
            (["rotate", "STORE", "nobody", "--new-key", "--keys", "KEYS"], "'nobody' is no role of this store"),
            (["rotate", "STORE", "root", "--add", "STORE", "--keys", "KEYS"], "cannot be read"),
            (["rotate", "STORE", "root", "--new-key", "--threshold", "1", "--keys", "KEYS"], "takes the place"),
            (
                ["rotate", "STORE", "deployments", "--new-key", "--proposal", "P", "--keys", "KEYS"],
                "leave --proposal out",
            ),
            (["sign", "STORE", "--keys", "KEYS"], "The proposal STORE cannot be read"),
            (["sign", "PEM", "--keys", "KEYS"], "KEYS/root.pem is not a proposal"),
            (["keys", "list", "--keys", "NONE"], "NONE is no folder"),
            (["keys", "create", "root", "--keys", "KEYS"], "exists already: choose another name, root.LABEL"),
            (["keys", "create", "../x", "--keys", "KEYS"], "'../x' cannot name a key"),
            (["keys", "export", "none", "--keys", "KEYS"], "none.pem cannot be read"),
        ],
    )
    def test_a_mistake_gets_one_sentence(
        self, fleet: Fleet, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        places = {
            "STORE": fleet.store,
            "KEYS": fleet.keys.path,
            "NONE": fleet.folder / "none",
            "PEM": fleet.keys.file("root"),
            "P": fleet.folder / "p",
        }
        assert main([str(places.get(word, word)) for word in arguments]) == 2
        said = capsys.readouterr().err
        for name, place in places.items():
            said = said.replace(str(place), name)
        assert says in said
        assert said.count("\n") == 1
