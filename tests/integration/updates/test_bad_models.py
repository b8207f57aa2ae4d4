"""Versions that must not serve, published by a careless fleet, on a real agent with a real broker.

Each ends in quarantine with the reason, on disk and on MQTT, and is not tried again; what served serves on.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edge_agent.cli import admin_client
from edge_agent.store import state as state_file
from edge_agent.telemetry.memory import free_bytes
from edge_fleet import artifacts
from support.agent import AgentProcess, wait_until
from support.broker import Broker, Listener
from support.fleet import Fleet
from support.models import affine_onnx, package

PLUGIN = Path(__file__).parents[2] / "support" / "plugin"
UP = "edge/v1/default/device/up"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet(tmp_path / "fleet")
    fleet.release("1", 2.0)
    return fleet


def device(tmp_path: Path, fleet: Fleet, **sections: dict[str, Any]) -> AgentProcess:
    store = {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600}
    settings = {"device": {"id": "device"}, "store": store, **sections}
    return AgentProcess(tmp_path / "device", settings, {"PYTHONPATH": str(PLUGIN)})


@contextmanager
def unchecked() -> Iterator[None]:
    """Publish as a tool would that looks into nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "check_contents", lambda manifest, blob: None)
        yield


def release(fleet: Fleet, version: str, file: Path, engine: str = "hostile", **fields: Any) -> str:
    """Publish and deploy a version; return the digest of its model file."""
    folder = fleet.folder / "packages" / "m" / version
    package(folder, file, name="m", version=version, factor=2.0, engine=engine, **fields)
    with unchecked():
        fleet.publish_package(folder)
    fleet.deploy(m=version)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def words(fleet: Fleet, text: str) -> Path:
    path = fleet.folder / f"model {text.replace('/', '-')}"
    path.write_text(text)
    return path


def model(fleet: Fleet, name: str, nodes: list[Any], initializers: list[Any], domain: str = "") -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    path = fleet.folder / name
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def reads_another_file(fleet: Fleet) -> Path:
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    path = fleet.folder / "reader"
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "c"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [tensor],
    )
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def is_enormous(fleet: Fleet) -> Path:
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["b"]),
        helper.make_node("ReduceSum", ["b"], ["c"], keepdims=0),
        helper.make_node("Mul", ["x", "c"], ["y"]),
    ]
    return model(fleet, "enormous", nodes, [helper.make_tensor("size", TensorProto.INT64, [1], [2**40])])


def wants_a_library(fleet: Fleet) -> Path:
    return model(fleet, "library", [helper.make_node("Evil", ["x"], ["y"], domain="com.evil")], [], "com.evil")


HARMFUL = [
    ("crash", "hostile", "The probe was killed by SIGSEGV while it tried the model."),
    ("hang", "hostile", "The probe did not answer for 40 s while it tried the model."),
    ("burn", "hostile", "The probe took too much processor time while it tried the model."),
    ("eat", "hostile", "The probe used more than 400 MiB of memory while it tried the model."),
    ("write /tmp/edge-agent-test-written", "hostile", "It cannot write: File too large."),
    ("socket", "hostile", "What it tried gave {-1}, errno 1."),
    ("nan", "hostile", "Golden sample 0: output 'y' is not finite."),
    ("shape", "hostile", "Golden sample 0: output 'y' has shape [1, 4], not [1, 3]."),
    ("datatype", "hostile", "The output 'y' is INT8 in the file and FP32 in the manifest"),
    (reads_another_file, "onnx", "Its tensors are in other files (external data)"),
    (is_enormous, "onnx", "It asks for more memory at once than this device can give: ONNX Runtime failed"),
    (wants_a_library, "onnx", "ONNX Runtime cannot load"),
]


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_every_harmful_version_is_quarantined_and_told_and_what_served_serves_on(
    tmp_path: Path, fleet: Fleet
) -> None:
    probe = {"timeout_s": 40, "cpu_limit_s": 2, "memory_limit_bytes": 400 * 2**20}
    with (
        Broker(tmp_path / "broker") as broker,
        Listener(broker.port, f"{UP}/#") as fleet_side,
        device(tmp_path, fleet, probe=probe, mqtt={"url": broker.url}) as agent,
    ):
        wait_until(lambda: agent.reported().serial == 1, "the first version serves")
        digests = [try_in_vain(agent, fleet, number, *one) for number, one in enumerate(HARMFUL, 2)]
        on_disk = state_file.load(agent.state / "state.json")[0].quarantine
        assert list(on_disk) == digests
        assert starts(entry.reason for entry in on_disk.values())
        wait_until(lambda: len(told(fleet_side)) == len(HARMFUL), "all are told")
        assert starts(event["message"] for event in told(fleet_side))
        wait_until(lambda: starts(reported(fleet_side)), "the report names them")
        not_tried_again(agent, fleet)


def try_in_vain(agent: AgentProcess, fleet: Fleet, number: int, what: Any, engine: str, reason: str) -> str:
    file = words(fleet, what) if isinstance(what, str) else what(fleet)
    digest = release(fleet, str(number), file, engine)
    outcome = admin_client.call(agent.runtime / "admin.sock", "sync", timeout_s=120)
    assert (outcome["status"], reason in outcome["message"]) == ("refused", True), outcome
    assert agent.factor() == (2.0, "1")
    return digest


def starts(reasons: Iterable[str]) -> bool:
    """Say whether these are the expected reasons, which may go on."""
    found = list(reasons)
    return len(found) == len(HARMFUL) and all(
        text.startswith(reason) for text, (_, _, reason) in zip(found, HARMFUL, strict=True)
    )


def reported(fleet_side: Listener) -> list[str]:
    """Return the reasons in the newest report."""
    return [entry["reason"] for entry in fleet_side.json(f"{UP}/reported")[-1]["quarantine"]]


def told(fleet_side: Listener) -> list[dict[str, Any]]:
    return [message["event"] for message in fleet_side.json(f"{UP}/event/quarantined")]


def not_tried_again(agent: AgentProcess, fleet: Fleet) -> None:
    """Neither when asked, nor as another version, nor after a restart: the file is the same."""
    before = len(agent.events("quarantined"))
    assert agent.sync(force=True)["status"] == "refused"
    release(fleet, "again", words(fleet, "crash"))
    assert agent.sync()["status"] == "refused"
    agent.stop()
    agent.start()
    assert agent.sync(force=True)["status"] == "refused"
    assert len(agent.events("quarantined")) == before
    assert agent.factor() == (2.0, "1")
    fleet.release("good", 4.0)
    agent.sync()
    assert agent.factor() == (4.0, "good")


def test_an_operator_may_have_a_version_tried_again(tmp_path: Path, fleet: Fleet) -> None:
    with device(tmp_path, fleet) as agent:
        file = words(fleet, "abort")
        release(fleet, "2", file)
        wait_until(lambda: agent.sync()["status"] == "refused", "it is refused")
        assert len(agent.events("quarantined")) == 1
        assert agent.ask("quarantine_release", model="m", version="2")["released"] == 1
        wait_until(lambda: len(agent.events("quarantined")) == 2, "it is tried again at once")


def test_the_best_variant_crashes_and_the_next_one_serves(tmp_path: Path, fleet: Fleet) -> None:
    with device(tmp_path, fleet) as agent:
        second = affine_onnx(fleet.folder / "second.onnx", 2.0)
        release(fleet, "2", words(fleet, "crash"), alternatives={"onnx": second})
        wait_until(lambda: agent.sync()["status"] and agent.factor() == (2.0, "2"), "the second variant serves")
        [serving] = [found for found in agent.reported().versions if found.state == "serving"]
        assert (serving.engine, serving.probe is not None) == ("onnx", True)
        assert serving.probe is not None
        assert serving.probe.run_s > 0
        assert serving.probe.peak_bytes > 2**20
        [event] = agent.events("quarantined")
        assert "SIGSEGV" in event.message


def test_a_lack_of_memory_is_waited_out(tmp_path: Path, fleet: Fleet) -> None:
    """The version says that it needs more than any device has: as if the memory were taken by others."""
    with device(tmp_path, fleet) as agent:
        wait_until(lambda: agent.reported().serial == 1, "the first version serves")
        release(
            fleet, "2", affine_onnx(fleet.folder / "large.onnx", 2.0), "onnx", memory_bytes=free_bytes() + 2**29
        )
        outcome = agent.sync()
        assert outcome["status"] == "failed"
        assert "m 2 could not be tried, and will be again: It needs about" in outcome["message"]
        assert any("could not be tried" in problem for problem in agent.reported().problems)
        assert agent.events("quarantined") == []
        assert _deferred(agent) == 1
        for times, options in ((2, {"force": True}), (3, {"now": True})):
            assert agent.sync(**options)["message"].startswith("m 2 could not be tried"), (
                "it is tried, and told"
            )
            assert _deferred(agent) == times
        assert agent.factor() == (2.0, "1")
        fleet.release("3", 4.0)
        agent.sync()
        assert agent.factor() == (4.0, "3"), "what cannot be tried does not hold up the next deployment"
        assert agent.reported().problems == ()


def _deferred(agent: AgentProcess) -> int:
    return len([event for event in agent.events("warning") if "could not be tried" in event.message])
