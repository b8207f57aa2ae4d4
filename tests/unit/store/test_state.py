from pathlib import Path

import msgspec
import pytest

from edge_agent.documents.errors import StorageError
from edge_agent.documents.plan import Limit, Plan, VersionPlan, with_id
from edge_agent.documents.tensors import TensorSpec
from edge_agent.policy.crashes import Incident
from edge_agent.store import state as state_file
from edge_agent.store.state import DeployedState, Measured, Quarantined

VERSION = VersionPlan(
    model="m",
    version="1",
    engine="onnx",
    precision="int8",
    sha256="0" * 64,
    path="/blob",
    size_bytes=3,
    inputs=(TensorSpec("x", "FP32", (-1, 3)),),
    outputs=(TensorSpec("y", "FP32", (-1, 2)),),
    tolerances={"y": Limit(0.1, 0.2)},
)
FULL = DeployedState(
    current=with_id(Plan(group="default", serial=2, versions=(VERSION,))),
    previous=with_id(Plan(group="default", serial=1, versions=(VERSION,))),
    fallback={"m": (VERSION,)},
    passed={VERSION.key: Measured("onnxruntime 1", 0.1, 0.2, 3, 4.0)},
    quarantine={"1" * 64: Quarantined("bad", "m", "0", 1.0, "root")},
    incidents=(Incident(1.0, (VERSION.key,)),),
    held="default/3/stable",
)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state_file.save(path, FULL)
    assert state_file.load(path) == (FULL, None)


def test_a_new_device_starts_empty_without_a_complaint(tmp_path: Path) -> None:
    assert state_file.load(tmp_path / "state.json") == (DeployedState(), None)


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"\0" * 100, b'{"schema": 99}', b'{"current": 3}', b"\xff\xfe", b'{"held": "\xff"}'],
)
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "state.json"
    state_file.save(path, FULL)
    state_file.save(path, DeployedState(held="newer"))
    path.write_bytes(damage)
    state, problem = state_file.load(path)
    assert state == FULL
    assert problem is not None
    assert str(path) in problem


def test_a_missing_state_with_one_before_is_damage_too(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state_file.save(path, FULL)
    state_file.save(path, DeployedState())
    path.unlink()
    state, problem = state_file.load(path)
    assert state == FULL
    assert problem is not None


def test_two_damaged_files_start_empty_and_say_so(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"{")
    state_file.previous_path(path).write_bytes(b"{")
    state, problem = state_file.load(path)
    assert state == DeployedState()
    assert problem is not None
    assert "starting empty" in problem


def test_a_folder_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Cannot write"):
        state_file.save(tmp_path / "gone" / "state.json", FULL)


FROZEN = Path(__file__).parent / "frozen" / "state_schema_1.json"
"""As an agent wrote it that knew schema 1."""


def test_a_state_of_schema_1_is_taken_over_whole(tmp_path: Path) -> None:
    state, problem = state_file.load(FROZEN)
    assert problem is None
    assert state.schema == state_file.STATE_SCHEMA
    assert [version.key for version in state.current.versions] == ["m/2/" + "b" * 12]
    assert state.previous is not None
    assert state.target is not None
    assert (state.previous.serial, state.target.serial) == (1, 3)
    assert state.fallback["m"] == state.previous.versions
    assert state.passed == {f"m/1/{'a' * 12}": Measured(), f"m/2/{'b' * 12}": Measured()}
    reason = "The probe was killed by SIGSEGV while it tried the model."
    assert state.quarantine == {"d" * 64: Quarantined(reason)}
    assert state.incidents[0].suspects == (state.current.versions[0].key,)
    assert state.held == "default/4/stable"
    state_file.save(tmp_path / "state.json", state)
    assert state_file.load(tmp_path / "state.json") == (state, None)


def test_a_state_of_a_time_between_is_taken_over_too(tmp_path: Path) -> None:
    content = msgspec.json.decode(msgspec.json.encode(FULL))
    path = tmp_path / "state.json"
    path.write_bytes(msgspec.json.encode({**content, "schema": 1}))
    assert state_file.load(path) == (FULL, None)


@pytest.mark.parametrize(
    "damage", ['{"schema": 1, "passed": 3}', '{"schema": 1, "quarantine": [1]}', '{"schema": 1, "current": 3}']
)
def test_a_damaged_state_of_schema_1_is_damage(tmp_path: Path, damage: str) -> None:
    (tmp_path / "state.json").write_text(damage)
    state, problem = state_file.load(tmp_path / "state.json")
    assert state == DeployedState()
    assert problem is not None


def test_a_damaged_state_does_not_take_the_place_of_the_sound_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    state_file.save(path, FULL)
    state_file.save(path, DeployedState(held="newer"))
    path.write_bytes(b"{")
    state, _ = state_file.load(path)

    def full(*_: object, **__: object) -> None:
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(state_file, "write_atomically", full)
        with pytest.raises(StorageError):
            state_file.save(path, state)
    assert state_file.load(path)[0] == FULL
    assert (tmp_path / "state.json.damaged").read_bytes() == b"{"
    state_file.save(path, DeployedState(held="next"))
    assert state_file.load(path) == (DeployedState(held="next"), None)
    path.unlink()
    assert state_file.load(path)[0] == FULL
