"""Loading a version beside those that are being served."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import EdgeAgentError, ModelLoadError
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import NUMPY_NAME
from edge_agent.engines.base import Engine, find
from edge_agent.serving.batches import NEVER, batch_limit
from edge_agent.serving.calls import Signature
from edge_agent.serving.jobs import JobQueue
from edge_agent.serving.memory import return_freed_memory
from edge_agent.telemetry.health_page import HealthPage

_WARM_UP_LIMIT_BYTES = 256 * 2**20
_QUICK_RUN_NS = 1_000_000


class LoadedVersion:
    """A version with its engine, and what the pipeline knows about its runs.

    `queue` and the counts are the event loop's alone; `run` may be called from any thread.
    """

    def __init__(self, plan: VersionPlan, engine: Engine, slot: int, page: HealthPage) -> None:
        self.plan = plan
        self.slot = slot
        self.signature = Signature(
            {spec.name: spec for spec in plan.inputs or engine.inputs},
            {spec.name: spec for spec in plan.outputs or engine.outputs},
            plan.labels,
        )
        self.state_inputs = frozenset(pair.input for pair in plan.state)
        self.in_sequence = dataclasses.replace(
            self.signature, hidden=frozenset(pair.output for pair in plan.state)
        )
        """The signature for requests of a sequence, whose state is the agent's."""
        self.queue = JobQueue()
        self.batch_limit = batch_limit(plan, self.signature)
        """The most rows that one run takes; 0 where the first dimension is not known to be a batch."""
        self.batching = NEVER
        self.in_flight = 0
        self.holds = 0
        """Sequences that go on on this version."""
        self.is_retired = False
        self.mean_run_ns = math.inf
        self.largest_run_bytes = 0
        self._engine = engine
        self._page = page

    def run(
        self, inputs: dict[str, NDArray[Any]], outputs: Sequence[str]
    ) -> tuple[dict[str, NDArray[Any]] | EdgeAgentError, int]:
        """Run once, marked on the health page; return the outputs or the error, and the nanoseconds it took."""
        with self._page.in_native(self.slot) as section:
            result = self._run(inputs, outputs)
        return result, section.run_ns

    def _run(
        self, inputs: dict[str, NDArray[Any]], outputs: Sequence[str]
    ) -> dict[str, NDArray[Any]] | EdgeAgentError:
        try:
            return self._engine.run(inputs, outputs)
        except EdgeAgentError as error:
            return error
        # A plug-in's own exception, or no memory: one request fails, the others go on.
        except Exception as error:
            return ModelLoadError(f"The engine {self.plan.engine} failed: {type(error).__name__}: {error}.")

    def note_run(self, run_ns: int, size_bytes: int) -> None:
        """Remember how long a run with inputs of this size took.

        A run that took longer than twice the mean counts as twice the mean: most likely the CPU was taken away.
        But only a quick run makes its size one that may run on the event loop's thread.
        """
        known = self.mean_run_ns
        self.mean_run_ns = run_ns if known == math.inf else known + (min(run_ns, 2 * known) - known) / 8
        if run_ns < _QUICK_RUN_NS:
            self.largest_run_bytes = max(self.largest_run_bytes, size_bytes)

    def close(self) -> None:
        """Unload the model and give its memory back to the system."""
        self._engine.close()
        return_freed_memory()


def load(plan: VersionPlan, slot: int, settings: EngineSettings, page: HealthPage) -> LoadedVersion:
    """Load a version and warm it up; raises ModelLoadError. Takes seconds: call it from a thread.

    Load and warm-up are marked on the health page one after the other, since each has the run limit to itself.
    """
    try:
        with page.in_native(slot):
            engine = find(plan.engine).load(Path(plan.path), settings)
        loaded = _ready(plan, engine, slot, page)
    except ModelLoadError:
        raise
    # A plug-in's own exception, or no memory: this plan is refused, the one before is served on.
    except Exception as error:
        raise ModelLoadError(
            f"The engine {plan.engine} cannot load it: {type(error).__name__}: {error}."
        ) from error
    return_freed_memory()
    return loaded


def _ready(plan: VersionPlan, engine: Engine, slot: int, page: HealthPage) -> LoadedVersion:
    try:
        _check_signature(plan, engine)
        _check_states(plan, engine)
        loaded = LoadedVersion(plan, engine, slot, page)
        _warm_up(loaded)
    except BaseException:
        engine.close()
        raise
    return loaded


def _check_states(plan: VersionPlan, engine: Engine) -> None:
    inputs, outputs = {spec.name for spec in engine.inputs}, {spec.name for spec in engine.outputs}
    for pair in plan.state:
        if pair.input not in inputs or pair.output not in outputs:
            raise ModelLoadError(f"The model file lacks the state '{pair.input}' or '{pair.output}'.")


def _check_signature(plan: VersionPlan, engine: Engine) -> None:
    for kind, given, found in (
        ("input", plan.inputs, engine.inputs),
        ("output", plan.outputs, engine.outputs),
    ):
        have = {spec.name: spec.datatype for spec in found}
        for spec in given:
            if have.get(spec.name) != spec.datatype:
                raise ModelLoadError(
                    f"The manifest has the {kind} '{spec.name}' of {spec.datatype}, the model file has {have}."
                )
        if given and kind == "input" and len(given) != len(have):
            raise ModelLoadError(f"The manifest has {len(given)} inputs, the model file has {have}.")


def _warm_up(loaded: LoadedVersion) -> None:
    """Run once with zeros, so that the first request does not pay for what runtimes put off until then.

    Skipped for BYTES, where zeros mean nothing. A model may refuse zeros for a reason of its own: the golden
    samples have said what it does with real values, so this is not the place to fail.
    """
    specs = loaded.signature.inputs.values()
    shapes = [tuple(max(size, 1) for size in spec.shape) for spec in specs]
    if any(spec.datatype == "BYTES" for spec in specs) or sum(map(math.prod, shapes)) > _WARM_UP_LIMIT_BYTES:
        return
    zeros = {
        spec.name: np.zeros(shape, NUMPY_NAME[spec.datatype]) for spec, shape in zip(specs, shapes, strict=True)
    }
    loaded.run(zeros, tuple(loaded.signature.outputs))
