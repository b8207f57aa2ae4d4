"""Whose fault it is that a version does not get its memory: the device's, or the version's."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.documents.errors import (
    EdgeAgentError,
    EngineSetupError,
    ModelError,
    ModelLoadError,
    ModelMemoryError,
)
from edge_agent.documents.plan import Limit, VersionPlan
from edge_agent.documents.settings import EngineSettings, MemorySettings
from edge_agent.documents.tensors import TensorSpec
from edge_agent.serving import loader, residency
from edge_agent.serving.residency import Residency
from edge_agent.serving.scheduler import Scheduler
from edge_agent.telemetry.counters import Counters
from edge_agent.telemetry.health_page import HealthPage

MB = 2**20
SPECS = (TensorSpec("x", "FP32", (-1,)),)
PLAN = VersionPlan("m", "1", "test", "fp32", "0" * 64, "/m", MB, SPECS, SPECS, memory_bytes=100 * MB)


class Engine:
    inputs = outputs = SPECS

    def __init__(self, load: Exception | None = None, run: Exception | None = None) -> None:
        self._errors = load, run

    @classmethod
    def runtime(cls, settings: EngineSettings) -> str | None:
        return None

    def load(self, path: Path, settings: EngineSettings) -> Self:
        if (error := self._errors[0]) is not None:
            raise error
        return self

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        if (error := self._errors[1]) is not None:
            raise error
        return {"x": inputs["x"]}

    def close(self) -> None:
        return


def loaded_with(engine: Engine, monkeypatch: pytest.MonkeyPatch, plan: VersionPlan = PLAN) -> ModelError:
    monkeypatch.setattr(loader, "find", lambda _: engine)
    with pytest.raises(ModelError) as raised:
        loader.load(plan, 0, EngineSettings(), HealthPage.create(), prove=True)
    return raised.value


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), ModelMemoryError),
        (ModelMemoryError("bad_alloc"), ModelMemoryError),
        (OSError(24, "Too many open files"), EngineSetupError),
        (ValueError("It is no model."), ModelLoadError),
    ],
)
def test_a_load_that_fails(error: Exception, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(loaded_with(Engine(load=error), monkeypatch)) is kind


@pytest.mark.parametrize(
    ("error", "kind"), [(MemoryError(), ModelMemoryError), (ValueError("no"), ModelLoadError)]
)
def test_a_proof_that_fails(
    error: Exception, kind: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    golden = tmp_path / "golden.npz"
    x = np.ones(3, np.float32)
    np.savez(golden, **{"0/input/x": x, "0/output/x": x})
    plan = dataclasses.replace(PLAN, golden_path=str(golden), tolerances={"x": Limit(0.1, 0.1)})
    assert type(loaded_with(Engine(run=error), monkeypatch, plan)) is kind


def refused(monkeypatch: pytest.MonkeyPatch, *, free: int, total: int, budget: int = 0) -> EdgeAgentError:
    monkeypatch.setattr(residency, "system_free_bytes", lambda: free)
    monkeypatch.setattr(residency, "total_bytes", lambda: total)

    async def load() -> None:
        memory = MemorySettings(budget_bytes=budget)
        page = HealthPage.create()
        await Residency(Scheduler(8), Counters(), EngineSettings(), memory, page).load(
            PLAN, 0, (), (), lambda _: None
        )

    with pytest.raises(ModelLoadError) as raised:
        asyncio.run(load())
    return raised.value


def test_what_others_have_taken_is_a_passing_shortage(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, free=60 * MB, total=500 * MB)
    assert isinstance(error, ModelMemoryError)
    assert str(error) == (
        f"Model 'm' 1 needs {100 * MB} bytes of memory, and the system has {60 * MB} left for it."
    )
    assert isinstance(refused(monkeypatch, free=60 * MB, total=500 * MB, budget=200 * MB), ModelMemoryError)


def test_what_does_not_fit_into_the_device_or_the_budget_never_will(monkeypatch: pytest.MonkeyPatch) -> None:
    for limits in ({"total": 90 * MB}, {"total": 500 * MB, "budget": 90 * MB}):
        error = refused(monkeypatch, free=60 * MB, **limits)
        assert not isinstance(error, ModelMemoryError)
        assert "deploy a smaller model" in str(error)
