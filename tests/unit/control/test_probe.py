"""The probe as a real process on real ONNX models."""

import asyncio
import io
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edge_agent.control.children import ChildEnd, MemoryLimits, converse, ending
from edge_agent.control.prober import verdict_of
from edge_agent.documents import ipc
from edge_agent.documents.errors import GoldenError
from edge_agent.documents.plan import Limit, VersionPlan
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import Datatype, TensorSpec
from edge_agent.engines.golden import check_outputs, read_golden


def affine(path: Path, factor: float) -> Path:
    """Write a model that computes y = factor * x on FP32 [-1, 3]."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def golden(path: Path, factor: float, samples: int = 3) -> Path:
    arrays: dict[str, NDArray[Any]] = {}
    for index in range(samples):
        x = np.full((1, 3), index + 1, np.float32)
        arrays |= {f"{index}/input/x": x, f"{index}/output/y": x * np.float32(factor)}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def version(path: Path, golden_path: Path | None, datatype: Datatype = "FP32", **limits: Limit) -> VersionPlan:
    return VersionPlan(
        model="affine",
        version="1",
        engine="onnx",
        precision="fp32",
        sha256="0" * 64,
        path=str(path),
        size_bytes=1,
        inputs=(TensorSpec("x", datatype, (-1, 3)),),
        outputs=(TensorSpec("y", "FP32", (-1, 3)),),
        golden_path=None if golden_path is None else str(golden_path),
        tolerances=limits,
    )


def probe(
    plan: VersionPlan,
    module: str = "edge_agent.control.probe",
    engines: EngineSettings = EngineSettings(threads=1),  # noqa: B008
    **limits: Any,
) -> ipc.ProbeVerdict:
    verdicts: list[ipc.ProbeVerdict] = []
    request = ipc.ProbeRequest(version=plan, engines=engines, cpu_limit_s=60)
    end = asyncio.run(converse(module, request, ipc.ProbeVerdict, verdicts.append, silence_s=60, **limits))
    return verdicts[0] if verdicts else verdict_of(end)


def test_a_sound_version_passes_and_is_measured(tmp_path: Path) -> None:
    verdict = probe(version(affine(tmp_path / "m", 2.0), golden(tmp_path / "g.npz", 2.0)))
    assert verdict.outcome == "passed", verdict.reason
    assert verdict.runtime.startswith("onnxruntime ")
    assert verdict.load_s > 0
    assert verdict.run_s > 0
    assert verdict.peak_bytes > 10 * 2**20


def test_wrong_answers_fail_with_the_distance(tmp_path: Path) -> None:
    verdict = probe(version(affine(tmp_path / "m", 2.5), golden(tmp_path / "g.npz", 2.0), y=Limit(atol=0.1)))
    assert verdict.outcome == "failed"
    assert "'y' is off by 0.5, more than the tolerance of 0.1" in verdict.reason


def test_answers_within_the_tolerance_pass(tmp_path: Path) -> None:
    verdict = probe(version(affine(tmp_path / "m", 2.01), golden(tmp_path / "g.npz", 2.0), y=Limit(0.0, 0.01)))
    assert verdict.outcome == "passed", verdict.reason


def test_a_file_that_is_no_model_fails(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"this is no model")
    verdict = probe(version(path, golden(tmp_path / "g.npz", 2.0)))
    assert verdict.outcome == "failed"
    assert "\n" not in verdict.reason


def test_a_file_with_another_signature_than_the_manifest_fails(tmp_path: Path) -> None:
    verdict = probe(version(affine(tmp_path / "m", 2.0), golden(tmp_path / "g.npz", 2.0), datatype="INT8"))
    assert verdict.outcome == "failed"
    assert "FP32 in the file and INT8 in the manifest" in verdict.reason


def test_a_missing_file_is_not_the_models_fault(tmp_path: Path) -> None:
    verdict = probe(version(affine(tmp_path / "m", 2.0), tmp_path / "gone.npz"))
    assert verdict.outcome == "inconclusive"
    assert verdict.is_unreadable


def test_a_runtime_that_is_set_up_wrongly_is_not_the_models_fault(tmp_path: Path) -> None:
    plan = version(affine(tmp_path / "m", 2.0), golden(tmp_path / "g.npz", 2.0))
    verdict = probe(plan, engines=EngineSettings(onnx_providers=("NoSuchProvider",)))
    assert verdict.outcome == "inconclusive"
    assert not verdict.is_unreadable
    assert "change engines.onnx_providers" in verdict.reason


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_probe_that_is_killed_from_outside_says_nothing_of_the_model(number: int) -> None:
    assert verdict_of(ending(-number)).outcome == "inconclusive"
    assert verdict_of(ending(-signal.SIGSEGV)).outcome == "failed"


def test_damaged_golden_samples_fail(tmp_path: Path) -> None:
    path = golden(tmp_path / "g.npz", 2.0)
    path.write_bytes(path.read_bytes()[:-30])
    verdict = probe(version(affine(tmp_path / "m", 2.0), path))
    assert verdict.outcome == "failed"
    assert "golden samples" in verdict.reason


def test_golden_samples_that_hold_pickles_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{"0/input/x": np.array([{"a": 1}], dtype=object)})
    path = tmp_path / "g.npz"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(GoldenError, match="malformed"):
        read_golden(path)


def test_a_memory_limit_kills_and_names_itself(tmp_path: Path) -> None:
    plan = version(affine(tmp_path / "m", 2.0), golden(tmp_path / "g.npz", 2.0))
    verdict = probe(plan, memory=MemoryLimits(2**20, 0))
    assert verdict.outcome == "failed"
    assert "used more than 1 MiB of memory" in verdict.reason


def module_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    (tmp_path / "stand_in_child.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "stand_in_child"


@pytest.mark.parametrize(
    ("body", "outcome", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "failed", "SIGSEGV"),
        ("import os; os.abort()", "failed", "SIGABRT"),
        ("import sys; sys.exit(3)", "failed", "status 3"),
        ("import os; os.kill(os.getpid(), 9)", "inconclusive", "killed from outside"),
        ("print('what is this')", "failed", "status 0"),
    ],
)
def test_a_probe_that_dies_gives_a_verdict_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, outcome: str, reason: str
) -> None:
    module = module_on_path(tmp_path, monkeypatch, body)
    verdict = probe(version(tmp_path, None), module=module)
    assert verdict.outcome == outcome
    assert reason in verdict.reason


def test_a_silent_child_is_killed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_on_path(tmp_path, monkeypatch, "import signal; signal.pause()")
    request = ipc.ProbeRequest(version=version(tmp_path, None), engines=EngineSettings(), cpu_limit_s=60)
    started = time.monotonic()
    end = asyncio.run(converse(module, request, ipc.ProbeVerdict, print, silence_s=0.3))
    assert end == ChildEnd("timeout", 0, "did not answer for 0.3 s")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("got", "want", "limit", "complaint"),
    [
        ([1.0], [1.0, 2.0], Limit(), "shape"),
        ([float("nan")], [1.0], Limit(1e9), "not finite"),
        ([float("inf")], [1.0], Limit(1e9), "not finite"),
        ([1.2], [1.0], Limit(0.1), "off by 0.2"),
        ([1.0], [float("nan")], Limit(0.1), "off by"),
    ],
)
def test_outputs_outside_their_tolerance(
    got: list[float], want: list[float], limit: Limit, complaint: str
) -> None:
    with pytest.raises(GoldenError, match=complaint):
        check_outputs(0, {"y": np.array(got)}, {"y": np.array(want)}, {"y": limit})


def test_outputs_that_are_equal_where_they_are_not_finite() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 1.0])
    check_outputs(0, {"y": odd}, {"y": odd.copy()}, {})


def test_a_missing_output_is_named() -> None:
    with pytest.raises(GoldenError, match="no output 'y'"):
        check_outputs(0, {"z": np.zeros(1)}, {"y": np.zeros(1)}, {})


def test_strings_must_be_equal() -> None:
    words = np.array([b"a", b"b"], dtype=object)
    check_outputs(0, {"y": words}, {"y": words.copy()}, {"y": Limit(9.0)})
    with pytest.raises(GoldenError, match="differs"):
        check_outputs(0, {"y": words}, {"y": words[::-1]}, {"y": Limit(9.0)})


def test_strings_of_a_fixed_width_are_those_that_a_model_gives(tmp_path: Path) -> None:
    """Golden samples hold no objects, so a label is stored with as many bytes as the longest has."""
    np.savez(tmp_path / "golden.npz", **{"0/input/x": np.zeros(1), "0/output/y": np.array([b"a", b"bcd"])})

    want = read_golden(tmp_path / "golden.npz")[0].outputs

    check_outputs(0, {"y": np.array([b"a", b"bcd"], object)}, want, {})
    for other in ([b"a", b"bc"], [b"a", b"bcde"], [b"bcd", b"a"]):
        with pytest.raises(GoldenError, match="output 'y' differs"):
            check_outputs(0, {"y": np.array(other, object)}, want, {"y": Limit(9.0)})


def test_a_probe_whose_supervisor_was_killed_before_it_had_asked_ends_in_silence() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "edge_agent.control.probe"], input=b"", capture_output=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
