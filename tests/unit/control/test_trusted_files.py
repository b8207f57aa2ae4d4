import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.control.trusted_files import (
    Marks,
    contents_of,
    expiry_of,
    key_digests,
    next_name,
    read_marks,
    role_of,
    signed_part,
    still_binding,
    switch,
    versions_of,
    write_marks,
)

SEEN = {"root": 2, "timestamp": 9, "snapshot": 8, "targets": 3, "m-digits": 4}
KEYS = {"timestamp": "t", "snapshot": "s"}
PROVEN = datetime(2026, 11, 22, tzinfo=UTC)


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
    left = still_binding(Marks(SEEN, KEYS, {"default": 3}, PROVEN), keys)
    assert set(left.versions) == binding
    assert left.proven == (PROVEN if "timestamp" in binding else None)
    assert left.serials == {"default": 3}


def test_before_anything_was_seen_nothing_binds() -> None:
    assert still_binding(Marks(), KEYS) == Marks()


def test_key_digests_change_with_the_keys_alone() -> None:
    def digests(version: int, *keyids: str) -> dict[str, str]:
        roles = {"timestamp": {"keyids": keyids}, "snapshot": {"keyids": ["s"]}, "root": {"keyids": ["r"]}}
        return key_digests({"version": version, "roles": roles})

    assert digests(1, "a", "b") == digests(2, "b", "a") != digests(2, "a")


def test_only_verified_roles_have_versions() -> None:
    meta = {"targets.json": {"version": 3}, "m-digits.json": {"version": 4}}
    snapshot = json.dumps({"signed": {"version": 8, "meta": meta}}).encode()
    files = {"snapshot.json": snapshot, "timestamp.json": b"\0\0"}
    assert versions_of(files, frozenset({"timestamp", "root"})) == {}
    verified = versions_of(files, frozenset({"timestamp", "snapshot"}))
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


@pytest.mark.parametrize(
    "signed", [{}, {"expires": 5}, {"expires": "soon"}, {"expires": "0001-01-01T00:00:00+09:00"}]
)
def test_an_expiry_that_is_none(signed: dict[str, object]) -> None:
    assert expiry_of(signed) is None


def test_folders_are_numbered_upwards(tmp_path: Path) -> None:
    assert next_name(tmp_path) == "1"
    for name in ("2", "10", "versions.json", "3x"):
        (tmp_path / name).mkdir()
    assert next_name(tmp_path) == "11"


def test_the_record_comes_back_as_it_was(tmp_path: Path) -> None:
    for marks in (Marks(), Marks(SEEN, KEYS, {"default": 3}, PROVEN)):
        write_marks(tmp_path, marks)
        assert read_marks(tmp_path) == (marks, None)


@pytest.mark.parametrize("content", [b"", b"\0\0", b"[]", b"{}", b'{"versions": {"root": "x"}}'])
def test_a_damaged_record_starts_again_and_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "versions.json").write_bytes(content)
    marks, problem = read_marks(tmp_path)
    assert marks == Marks()
    assert problem is not None
    assert "was damaged and starts again" in problem


def test_a_folder_is_switched_whole(tmp_path: Path) -> None:
    for files in ({"timestamp.json": b"1", "root_history/1.root.json": b"r"}, {"timestamp.json": b"2"}):
        switch(tmp_path, files)
        assert contents_of(tmp_path / "current") == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "current"]
