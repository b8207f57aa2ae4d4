import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.control.trusted_files import (
    Marks,
    expiry_of,
    key_digests,
    next_name,
    role_of,
    signed_part,
    still_binding,
    versions_of,
)

SEEN = {"root": 2, "timestamp": 9, "snapshot": 8, "targets": 3, "m-digits": 4}
KEYS = {"timestamp": "t", "snapshot": "s"}


@pytest.mark.parametrize(
    ("keys", "binding"),
    [
        (KEYS, set(SEEN)),
        ({"timestamp": "new", "snapshot": "s"}, set(SEEN) - {"timestamp"}),
        ({"timestamp": "t", "snapshot": "new"}, {"root", "timestamp"}),
        ({"timestamp": "new", "snapshot": "new"}, {"root"}),
    ],
)
def test_new_keys_free_what_the_old_ones_signed(keys: dict[str, str], binding: set[str]) -> None:
    assert set(still_binding(Marks(SEEN, KEYS), keys)) == binding


def test_before_anything_was_seen_nothing_binds() -> None:
    assert still_binding(Marks(), KEYS) == {}


def test_key_digests_change_with_the_keys_alone(tmp_path: Path) -> None:
    def digests(version: int, *keyids: str) -> dict[str, str]:
        roles = {"timestamp": {"keyids": keyids}, "snapshot": {"keyids": ["s"]}, "root": {"keyids": ["r"]}}
        (tmp_path / "root.json").write_text(json.dumps({"signed": {"version": version, "roles": roles}}))
        return key_digests(tmp_path)

    assert digests(1, "a", "b") == digests(2, "b", "a") != digests(2, "a")


def test_only_verified_roles_have_versions(tmp_path: Path) -> None:
    meta = {"targets.json": {"version": 3}, "m-digits.json": {"version": 4}}
    (tmp_path / "snapshot.json").write_text(json.dumps({"signed": {"version": 8, "meta": meta}}))
    (tmp_path / "timestamp.json").write_bytes(b"\0\0")
    assert versions_of(tmp_path, frozenset({"timestamp", "root"})) == {}
    verified = versions_of(tmp_path, frozenset({"timestamp", "snapshot"}))
    assert verified == {"snapshot": 8, "targets": 3, "m-digits": 4}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("timestamp.json", "timestamp"),
        ("12.m-digits.json", "m-digits"),
        ("1.a%2Fb.json", "a/b"),
        ("a.b.json", "a.b"),
    ],
)
def test_roles_of_file_names(name: str, role: str) -> None:
    assert role_of(Path("metadata") / name) == role


@given(st.binary(max_size=200))
def test_damage_is_read_as_nothing(content: bytes) -> None:
    assert signed_part(content) == {}


@pytest.mark.parametrize("signed", [{}, {"expires": 5}, {"expires": "soon"}])
def test_an_expiry_that_is_none(signed: dict[str, object]) -> None:
    assert expiry_of(signed) is None


def test_folders_are_numbered_upwards(tmp_path: Path) -> None:
    assert next_name(tmp_path) == "1"
    for name in ("2", "10", "versions.json", "3x"):
        (tmp_path / name).mkdir()
    assert next_name(tmp_path) == "11"
