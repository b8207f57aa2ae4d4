"""Proposals that change more of a root than they show to who signs them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import SSlibKey

from edge_agent.documents.errors import TrustError
from edge_fleet.cli import main
from edge_fleet.keys import KeyFolder
from edge_fleet.rotate import apply, describe, propose
from edge_fleet.trust.proposal import Change, Proposal
from edge_fleet.trust.signers import load_signers, read_key
from support.tiny_fleet import Fleet

Forging = Callable[[dict[str, Any], dict[str, Any]], None]
"""Changes the proposed root; is given a key of the forger's."""


def swap_behind_the_id(root: dict[str, Any], key: dict[str, Any]) -> None:
    root["keys"][root["roles"]["timestamp"]["keyids"][0]] = key


def swap_behind_the_shown_part_of_the_id(root: dict[str, Any], key: dict[str, Any]) -> None:
    (keyid,) = root["roles"]["timestamp"]["keyids"]
    swap_id(root, keyid, keyid[:12] + "0" * 52, key)


def trust_under_an_id_of_ones_choice(root: dict[str, Any], key: dict[str, Any]) -> None:
    root["keys"]["f" * 64] = key
    root["roles"]["root"]["keyids"].append("f" * 64)


def spell_a_known_key_otherwise(root: dict[str, Any], key: dict[str, Any]) -> None:
    """Trust the same key twice, under the right id of each spelling: one signer would count as two."""
    known = root["keys"][root["roles"]["root"]["keyids"][0]]
    spelt = {**known, "keyval": {"public": known["keyval"]["public"].upper()}}
    keyid = hashlib.sha256(encode_canonical(spelt).encode()).hexdigest()
    root["keys"][keyid] = spelt
    root["roles"]["root"]["keyids"].append(keyid)


def trust_a_key_that_is_not_told(root: dict[str, Any], key: dict[str, Any]) -> None:
    root["roles"]["root"]["keyids"].append("d" * 64)


def swap_id(root: dict[str, Any], old: str, new: str, key: dict[str, Any]) -> None:
    del root["keys"][old]
    root["keys"][new] = key
    for role in root["roles"].values():
        role["keyids"] = [new if keyid == old else keyid for keyid in role["keyids"]]


FORGINGS: dict[str, tuple[Forging, str]] = {
    "key": (swap_behind_the_id, "has another key behind the known id"),
    "beginning": (swap_behind_the_shown_part_of_the_id, "under an id that is not computed from it"),
    "chosen id": (trust_under_an_id_of_ones_choice, "under an id that is not computed from it"),
    "spelling": (spell_a_known_key_otherwise, "under an id that is not computed from it"),
    "no key": (trust_a_key_that_is_not_told, "lacks the key ddd"),
    "version": (lambda root, key: root.update(version=7), "has version 7 and not 2"),
    "names": (lambda root, key: root.update(consistent_snapshot=False), "differs in more than"),
    "field": (lambda root, key: root.update(note="x"), "differs in more than"),
    "role": (lambda root, key: root["roles"]["root"].update(note="x"), "differs in more than"),
}


@pytest.fixture(params=FORGINGS)
def forged(request: pytest.FixtureRequest, fleet: Fleet, tmp_path: Path) -> tuple[Path, str]:
    """A proposal that says it only lasts longer, and what is said of it."""
    forge, says = FORGINGS[request.param]
    file = tmp_path / "root.proposal"
    propose(fleet.repository.read(), "root", Change(), fleet.now).write(file)
    forger = KeyFolder(tmp_path / "forger")
    forger.create("x")
    document = json.loads(file.read_bytes())
    forge(document["proposed"]["signed"], read_key(forger, "x").to_dict())
    file.write_text(json.dumps(document))
    return file, says


def test_who_would_sign_one_is_warned(
    forged: tuple[Path, str], fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    file, says = forged
    before = file.read_bytes()
    for command in (["sign", str(file)], ["apply", str(fleet.store), str(file)]):
        assert main([*command, "--keys", str(fleet.keys.path)]) == 1
        said = capsys.readouterr().err
        assert says in said
        assert "neither sign nor publish it" in said
        assert said.count("\n") == 1
    assert file.read_bytes() == before


def test_none_is_published_whoever_signed(fleet: Fleet) -> None:
    proposal = propose(fleet.repository.read(), "root", Change(), fleet.now)
    root = proposal.proposed.signed
    root.keys[root.roles["timestamp"].keyids[0]] = root.keys[root.roles["root"].keyids[0]]
    proposal.sign(load_signers(fleet.keys, "root"))
    with pytest.raises(TrustError, match="has another key behind the known id"):
        apply(fleet.repository, proposal, fleet.keys, fleet.now)
    assert fleet.repository.read().roles["root"].signed.version == 1


def test_ids_that_begin_alike_are_told_apart(fleet: Fleet) -> None:
    proposal = propose(fleet.repository.read(), "root", Change(), fleet.now)
    role = proposal.proposed.signed.roles["timestamp"]
    begins = role.keyids[0][:12]
    role.keyids[0] = begins + "0" * 52
    changes = describe(proposal, "p").changes
    assert changes == (f"timestamp trusts {begins} as well", f"timestamp trusts {begins} no longer")


def test_an_expiry_that_is_not_later_is_told(fleet: Fleet) -> None:
    proposal = propose(fleet.repository.read(), "root", Change(), fleet.now)
    proposal.proposed.signed.expires = proposal.previous.signed.expires
    assert describe(proposal, "p").changes == ("only its expiry is not later",)


@pytest.mark.parametrize("role", ["timestamp", "nothing"])
def test_metadata_of_another_kind_is_no_proposal(
    fleet: Fleet, tmp_path: Path, role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p"
    propose(fleet.repository.read(), "root", Change(), fleet.now).write(file)
    document = json.loads(file.read_bytes())
    other = fleet.repository.read().roles["timestamp"].to_dict()
    document["proposed"] = other if role == "timestamp" else "nothing"
    file.write_text(json.dumps(document))
    assert main(["sign", str(file), "--keys", str(fleet.keys.path)]) == 2
    assert "is not a proposal" in capsys.readouterr().err


@pytest.mark.parametrize(
    "private",
    [Ed25519PrivateKey.generate(), generate_private_key(SECP384R1()), generate_rsa_key(65537, 2048)],
    ids=["ed25519", "ecdsa", "rsa"],
)
def test_keys_of_every_kind_may_follow(fleet: Fleet, tmp_path: Path, private: Any) -> None:
    change = Change(add=(SSlibKey.from_crypto(private.public_key()),))
    file = tmp_path / "p"
    propose(fleet.repository.read(), "root", change, fleet.now).write(file)
    assert len(Proposal.read(file).proposed.signed.roles["root"].keyids) == 2
