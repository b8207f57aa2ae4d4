"""A new version answers golden samples in the serving process before it answers anybody else."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edge_agent.client import Client
from edge_agent.documents.ipc import Applied, Refused
from edge_agent.documents.plan import Limit, VersionPlan
from edge_agent.documents.settings import MemorySettings
from support.models import affine_onnx
from support.serving import ServingProcess, version_plan, weighty_onnx

X = np.ones((1, 3), np.float32)


def proven(model: Path, version: str, factor: float, samples: int = 2) -> VersionPlan:
    """Return the plan of a model whose golden samples say that it multiplies by `factor`."""
    path = model.with_suffix(".npz")
    width = 2 if "weighty" in model.name else 3
    arrays = {}
    for index in range(samples):
        x = np.full((1, width), index + 1, np.float32)
        arrays |= {f"{index}/input/x": x, f"{index}/output/y": x * np.float32(factor)}
    np.savez(path, **arrays)
    return dataclasses.replace(
        version_plan(model, "m", version),
        golden_path=str(path),
        golden_samples=samples,
        tolerances={"y": Limit(1e-4, 1e-4)},
    )


def test_what_answers_its_samples_is_applied(tmp_path: Path) -> None:
    with ServingProcess(tmp_path / "serving") as serving:
        plan = proven(affine_onnx(tmp_path / "good.onnx", 2.0), "1", 2.0, samples=50)
        assert isinstance(serving.apply(plan, prove=True), Applied)
        assert serving.page.snapshot().slots[serving.slot(plan)].requests == 0


def test_what_does_not_is_refused_and_the_old_version_serves(tmp_path: Path) -> None:
    with ServingProcess(tmp_path / "serving") as serving:
        old = proven(affine_onnx(tmp_path / "old.onnx", 2.0), "1", 2.0)
        bad = proven(affine_onnx(tmp_path / "bad.onnx", 3.0), "2", 9.0)
        serving.apply(old, prove=True)
        refused = serving.apply(bad, prove=True)
        assert isinstance(refused, Refused)
        assert refused.key == bad.key
        assert "Golden sample 0: output 'y' is off by" in refused.reason
        with Client(serving.path) as client:
            assert client.infer("m", {"x": X}).model_version == "1"


def test_in_place_the_old_version_is_loaded_again(tmp_path: Path) -> None:
    memory = MemorySettings(budget_bytes=5_500_000)
    with ServingProcess(tmp_path / "serving", memory=memory) as serving:
        old = proven(weighty_onnx(tmp_path / "weighty-1.onnx", 1), "1", 1.0)
        bad = proven(weighty_onnx(tmp_path / "weighty-2.onnx", 2), "2", 9.0)
        old, bad = (dataclasses.replace(plan, memory_bytes=4_000_000) for plan in (old, bad))
        assert isinstance(serving.apply(old, prove=True), Applied)
        assert isinstance(serving.apply(bad, prove=True), Refused)
        assert "Loading m 2 in place" in serving.log
        with Client(serving.path) as client:
            assert client.infer("m", {"x": X[:, :2]}).model_version == "1"


@pytest.mark.parametrize("content", [b"no archive", None])
def test_samples_that_cannot_be_read_prove_nothing(tmp_path: Path, content: bytes | None) -> None:
    with ServingProcess(tmp_path / "serving") as serving:
        plan = proven(affine_onnx(tmp_path / "m.onnx", 2.0), "1", 2.0)
        path = Path(str(plan.golden_path))
        path.unlink() if content is None else path.write_bytes(content)
        assert isinstance(serving.apply(plan, prove=True), Refused)
        assert isinstance(serving.apply(plan), Applied), "what served before is not asked for proof"
