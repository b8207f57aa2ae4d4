"""What a model can do to the probe, and what is said of it: real processes, a plug-in that obeys its file."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_agent.control import children, prober
from edge_agent.control.children import ChildEnd
from edge_agent.control.prober import lack_of_memory, memory_limits, try_version, verdict_of
from edge_agent.documents import ipc
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import EngineSettings, ProbeSettings, Settings
from edge_agent.documents.tensors import TensorSpec

CHECKOUT = Path(__file__).parents[3]
PLUGIN = CHECKOUT / "tests/support/plugin"
MIB = 2**20


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{CHECKOUT}{os.pathsep}{PLUGIN}")


def version(path: Path, engine: str = "onnx", **fields: Any) -> VersionPlan:
    return VersionPlan(
        model="m",
        version="1",
        engine=engine,
        precision="fp32",
        sha256="0" * 64,
        path=str(path),
        size_bytes=path.stat().st_size,
        inputs=(TensorSpec("x", "FP32", (-1, 3)),),
        outputs=(TensorSpec("y", "FP32", (-1, 3)),),
        **fields,
    )


def tried(plan: VersionPlan, **limits: Any) -> ipc.ProbeVerdict:
    settings = Settings(probe=ProbeSettings(**limits), engines=EngineSettings(threads=1))
    return asyncio.run(try_version(plan, settings))


@pytest.fixture
def hostile(tmp_path: Path) -> Callable[..., ipc.ProbeVerdict]:
    def do(what: str, run_limit_s: float = 30.0, **limits: Any) -> ipc.ProbeVerdict:
        (tmp_path / "model").write_text(what)
        return tried(version(tmp_path / "model", "hostile", run_limit_s=run_limit_s), **limits)

    return do


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("crash", "The probe was killed by SIGSEGV while it tried the model."),
        ("crash-on-load", "The probe was killed by SIGSEGV while it tried the model."),
        ("abort", "The probe was killed by SIGABRT while it tried the model."),
        ("exit", "The probe exited with status 3 while it tried the model."),
        ("nan", "For an input of zeros, output 'y' is not finite"),
        ("shape", "For an input of zeros, output 'y' has shape [1, 4], not [-1, 3]."),
        ("datatype", "The output 'y' is INT8 in the file and FP32 in the manifest"),
        ("socket", "What it tried gave {-1}, errno 1."),
    ],
)
def test_what_is_the_models_fault(hostile: Callable[..., ipc.ProbeVerdict], what: str, reason: str) -> None:
    verdict = hostile(what)
    assert (verdict.outcome, verdict.reason[: len(reason)]) == ("failed", reason)


def test_a_model_that_answers_is_measured_and_confined(hostile: Callable[..., ipc.ProbeVerdict]) -> None:
    verdict = hostile("answer")
    assert (verdict.outcome, verdict.gaps) == ("passed", ())
    assert verdict.run_s > 0
    assert verdict.peak_bytes > MIB


def test_a_model_that_hangs(hostile: Callable[..., ipc.ProbeVerdict]) -> None:
    verdict = hostile("hang", timeout_s=3)
    assert (verdict.outcome, verdict.reason) == (
        "failed",
        "The probe did not answer for 3 s while it tried the model.",
    )


def test_a_device_without_a_processor_to_spare_does_not_blame_the_model(
    hostile: Callable[..., ipc.ProbeVerdict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_waited_s", lambda _: 1.6)
    verdict = hostile("hang", timeout_s=3)
    assert (verdict.outcome, verdict.reason) == (
        "inconclusive",
        "The probe got too little of the processors to answer within 3 s.",
    )


def test_the_kernel_says_how_long_a_process_waited() -> None:
    assert 0 <= children._waited_s(os.getpid()) < 3600
    assert children._waited_s(2**30) == 0.0


def test_a_model_that_takes_longer_than_its_manifest_says(hostile: Callable[..., ipc.ProbeVerdict]) -> None:
    verdict = hostile("slow 0.2", run_limit_s=0.1)
    assert verdict.outcome == "failed"
    assert "and its manifest allows 0.1" in verdict.reason


def test_a_model_that_burns_processor_time(hostile: Callable[..., ipc.ProbeVerdict]) -> None:
    verdict = hostile("burn", cpu_limit_s=3)
    assert (verdict.outcome, verdict.reason) == (
        "failed",
        "The probe took too much processor time while it tried the model.",
    )


def test_a_model_that_eats_memory(hostile: Callable[..., ipc.ProbeVerdict]) -> None:
    verdict = hostile("eat", memory_limit_bytes=300 * MIB)
    assert (verdict.outcome, verdict.reason) == (
        "failed",
        "The probe used more than 300 MiB of memory while it tried the model.",
    )


def test_a_model_that_writes_a_file(hostile: Callable[..., ipc.ProbeVerdict], tmp_path: Path) -> None:
    verdict = hostile(f"write {tmp_path / 'written'}")
    assert (verdict.outcome, verdict.reason) == ("failed", "It cannot write: File too large.")
    assert (tmp_path / "written").read_bytes() == b""


@pytest.fixture
def readable_by_all() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_the_network_is_cut_off_for_a_user_without_privileges(readable_by_all: Path) -> None:
    model = readable_by_all / "model"
    model.write_text("socket")
    request = ipc.ProbeRequest(version=version(model, "hostile"), engines=EngineSettings(), cpu_limit_s=60)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    child = subprocess.run(
        [*user, sys.executable, "-m", "edge_agent.control.probe"],
        input=msgspec.json.encode(request) + b"\n",
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    verdict = msgspec.json.decode(child.stdout, type=ipc.ProbeVerdict)
    assert (verdict.reason, verdict.gaps) == ("What it tried gave {-1}, errno 1.", ())


# --- a lack of memory -----------------------------------------------------------------------------------------


def test_a_device_without_the_memory_does_not_even_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").write_text("crash")
    monkeypatch.setattr(prober, "free_bytes", lambda: 0)
    verdict = tried(version(tmp_path / "model", "hostile"))
    assert verdict.outcome == "inconclusive"
    assert verdict.reason == "It needs about 64 MiB of memory, and 0 MiB are free."


def test_what_a_version_needs_is_what_its_manifest_says_or_its_size(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(bytes(MIB))
    assert lack_of_memory(version(tmp_path / "model"), 65 * MIB) is None
    assert lack_of_memory(version(tmp_path / "model"), 65 * MIB - 1) is not None
    stated = version(tmp_path / "model", memory_bytes=100 * MIB)
    assert lack_of_memory(stated, 163 * MIB) == "It needs about 164 MiB of memory, and 163 MiB are free."


def test_a_device_that_runs_out_of_memory_meanwhile_does_not_blame_the_model(
    hostile: Callable[..., ipc.ProbeVerdict], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = memory_limits(ProbeSettings())
    free = prober.free_bytes()
    monkeypatch.setattr(prober, "RESERVE_BYTES", free - 300 * MIB)
    assert limits.limit_bytes > 300 * MIB
    verdict = hostile("eat")
    assert verdict.outcome == "inconclusive"
    assert verdict.reason.endswith("of memory when the device ran out of it.")


def test_killed_for_lack_of_memory_is_inconclusive() -> None:
    assert verdict_of(ChildEnd("signal", 9, "was killed by SIGKILL")).outcome == "inconclusive"


# --- crafted files --------------------------------------------------------------------------------------------


def crafted(path: Path, nodes: list[Any], initializers: list[Any] = [], domain: str = "") -> VersionPlan:  # noqa: B006
    graph = helper.make_graph(
        nodes,
        "crafted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    return version(path)


def enormous() -> list[Any]:
    return [
        helper.make_node("ConstantOfShape", ["size"], ["b"]),
        helper.make_node("ReduceSum", ["b"], ["c"], keepdims=0),
        helper.make_node("Mul", ["x", "c"], ["y"]),
    ]


def test_a_tensor_larger_than_any_device(tmp_path: Path) -> None:
    size = helper.make_tensor("size", TensorProto.INT64, [1], [2**40])
    verdict = tried(crafted(tmp_path / "m", enormous(), [size]))
    assert verdict.outcome == "failed"
    assert verdict.reason.startswith("It asks for more memory at once than this device can give: ONNX Runtime")


def test_a_stored_tensor_with_dimensions_beyond_its_bytes(tmp_path: Path) -> None:
    for dims in ([2**40], [2**31] * 3, [-1]):
        tensor = onnx.TensorProto(name="c", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(16))
        node = helper.make_node("ReduceSum", ["c"], ["s"], keepdims=0)
        verdict = tried(crafted(tmp_path / "m", [node, helper.make_node("Mul", ["x", "s"], ["y"])], [tensor]))
        assert verdict.outcome == "failed", verdict
        assert "\n" not in verdict.reason


def test_an_operator_from_a_library_of_its_own(tmp_path: Path) -> None:
    node = helper.make_node("Evil", ["x"], ["y"], domain="com.evil")
    verdict = tried(crafted(tmp_path / "m", [node], domain="com.evil"))
    assert verdict.outcome == "failed"
    assert "com.evil:Evil(-1) is not a registered function/op" in verdict.reason


@pytest.mark.parametrize("location", ["/etc/passwd", "../../../etc/passwd", "beside.bin"])
def test_tensors_in_other_files(tmp_path: Path, location: str) -> None:
    (tmp_path / "beside.bin").write_bytes(np.ones(3, np.float32).tobytes())
    tensor = onnx.TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[3], data_location=1)
    tensor.external_data.add(key="location", value=location)
    verdict = tried(crafted(tmp_path / "m", [helper.make_node("Mul", ["x", "c"], ["y"])], [tensor]))
    assert verdict.outcome == "failed"
    assert verdict.reason.startswith("Its tensors are in other files (external data)")
