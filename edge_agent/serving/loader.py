"""A version and its engine, which is loaded, unloaded, and may be loaded again."""

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import (
    EdgeAgentError,
    EngineSetupError,
    ModelError,
    ModelLoadError,
    ModelMemoryError,
)
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import NUMPY_NAME
from edge_agent.engines.base import Engine, find
from edge_agent.engines.golden import check_outputs, read_golden
from edge_agent.serving.batches import NEVER, batch_limit
from edge_agent.serving.calls import Signature
from edge_agent.serving.jobs import JobQueue
from edge_agent.serving.memory import own_bytes, return_freed_memory
from edge_agent.telemetry.health_page import HealthPage

log = logging.getLogger(__name__)
_WARM_UP_LIMIT_BYTES = 256 * 2**20
_QUICK_RUN_NS = 1_000_000
_AGAIN_NS = 20_000_000
_PROOF_SAMPLES: Final = 4
_PROOF_NS: Final = 2_000_000_000
"""No further golden sample is run after so long: the probe has run them all."""

READY: Final = "READY"
UNAVAILABLE: Final = "UNAVAILABLE"
AWAY: Final = "unloaded to save memory; loads on demand"


class LoadedVersion:
    """A version, its engine while that is in memory, and what the pipeline knows about its runs.

    `queue` and the counts are the event loop's alone; `run` may be called from any thread. The engine comes and
    goes on the loader's thread, while the loop sees to it that nothing runs.
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
        """Jobs that wait or run."""
        self.holds = 0
        """Sequences, and requests in slices, that go on on this version; one with any is not idle."""
        self.is_retired = False
        self.is_resident = True
        """Whether it may run: false from when it is to be unloaded until it has been loaded again."""
        self.used_ns = self.loaded_ns = perf_counter_ns()
        self.load_ns = 0
        """How long its last load took."""
        self.resident_bytes = 0
        """What its engine takes, by what loading it added; 0 without one."""
        self.mean_run_ns = math.inf
        self.largest_run_bytes = 0
        self._engine: Engine | None = engine
        self._page = page

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for it, runs on it, or will be back."""
        return not self.in_flight and not self.holds

    @property
    def running(self) -> int:
        """How many jobs run at this moment."""
        return self.in_flight - len(self.queue)

    @property
    def state(self) -> tuple[str, str]:
        """Its state and the reason for it, as the repository index of Triton has them."""
        return (READY, "") if self.is_resident else (UNAVAILABLE, AWAY)

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
        engine = self._engine
        assert engine is not None
        try:
            return engine.run(inputs, outputs)
        except EdgeAgentError as error:
            return error
        # A plug-in's own exception, or no memory: one request fails, the others go on.
        except Exception as error:
            kind = ModelMemoryError if isinstance(error, MemoryError) else ModelLoadError
            return kind(f"The engine {self.plan.engine} failed: {type(error).__name__}: {error}.")

    def note_run(self, run_ns: int, size_bytes: int) -> None:
        """Remember how long a run with inputs of this size took.

        A run that took longer than twice the mean counts as twice the mean: most likely the CPU was taken away.
        But only a quick run makes its size one that may run on the event loop's thread.
        """
        known = self.mean_run_ns
        self.mean_run_ns = run_ns if known == math.inf else known + (min(run_ns, 2 * known) - known) / 8
        if run_ns < _QUICK_RUN_NS:
            self.largest_run_bytes = max(self.largest_run_bytes, size_bytes)

    def reload(self, settings: EngineSettings) -> None:
        """Load the engine again; raises ModelLoadError. To be called on the loader's thread."""
        with _mapping_errors(self.plan), self._page.loading(self.slot):
            started_ns, before_bytes = perf_counter_ns(), _begin(self.plan, settings)
            self._engine = _engine(self.plan, self.slot, settings, self._page)
            _warm_up(self)
            self.note_load(started_ns, before_bytes)

    def note_load(self, started_ns: int, before_bytes: int) -> None:
        """Remember how long the load took, and the memory that it added; gives freed memory back."""
        return_freed_memory()
        self.resident_bytes = max(own_bytes() - before_bytes, self.plan.size_bytes)
        self.loaded_ns = perf_counter_ns()
        self.load_ns = self.loaded_ns - started_ns

    def close(self) -> None:
        """Unload the model and give its memory back to the system. To be called on the loader's thread."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        try:
            engine.close()
        # A plug-in's own exception: whatever it keeps, it is not asked again.
        except Exception:
            log.exception("The engine %s failed to unload %s", self.plan.engine, self.plan.key)
        del engine
        return_freed_memory()


def load(
    plan: VersionPlan, slot: int, settings: EngineSettings, page: HealthPage, prove: bool = False
) -> LoadedVersion:
    """Load a version and warm it up; raises ModelLoadError. Takes seconds: call it on the loader's thread.

    With `prove` it must answer golden samples within their tolerances, else GoldenError. Load, proof and
    warm-up are marked on the health page one after the other, since each run has the run limit to itself.
    """
    with _mapping_errors(plan), page.loading(slot):
        started_ns, before_bytes = perf_counter_ns(), _begin(plan, settings)
        engine = _engine(plan, slot, settings, page)
        try:
            loaded = LoadedVersion(plan, engine, slot, page)
            if prove and plan.golden_path is not None:
                _prove(loaded, Path(plan.golden_path))
            _warm_up(loaded)
            loaded.note_load(started_ns, before_bytes)
        except BaseException:
            engine.close()
            raise
    return loaded


@contextmanager
def _mapping_errors(plan: VersionPlan) -> Iterator[None]:
    """Turn a plug-in's own exception into ModelLoadError, no memory into ModelMemoryError and what the system
    says of files into EngineSetupError: what is served already goes on."""
    try:
        yield
    except ModelError:
        raise
    except MemoryError as error:
        raise ModelMemoryError(f"The engine {plan.engine} did not get the memory to load it.") from error
    except OSError as error:
        raise EngineSetupError(f"Its files could not be read: {error}.") from error
    except Exception as error:
        raise ModelLoadError(
            f"The engine {plan.engine} cannot load it: {type(error).__name__}: {error}."
        ) from error


def _begin(plan: VersionPlan, settings: EngineSettings) -> int:
    """Import the runtime, which stays whatever becomes of the model; return the memory taken before."""
    prepare = getattr(find(plan.engine), "prepare", None)
    if prepare is not None:
        prepare(settings)
    return_freed_memory()
    return own_bytes()


def _engine(plan: VersionPlan, slot: int, settings: EngineSettings, page: HealthPage) -> Engine:
    with page.in_native(slot):
        engine = find(plan.engine).load(Path(plan.path), settings)
    try:
        _check_signature(plan, engine)
        _check_states(plan, engine)
    except BaseException:
        engine.close()
        raise
    return engine


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


def _prove(loaded: LoadedVersion, path: Path) -> None:
    """Run the first golden samples as requests are run, within this process; raises ModelError.

    What the probe found right may be wrong here: beside other models, with less memory, another thread.
    """
    deadline_ns = perf_counter_ns() + _PROOF_NS
    for index, sample in enumerate(read_golden(path, _PROOF_SAMPLES)):
        result, _ = loaded.run(sample.inputs, tuple(sample.outputs))
        if isinstance(result, EdgeAgentError):
            kind = ModelMemoryError if isinstance(result, ModelMemoryError) else ModelLoadError
            raise kind(f"Golden sample {index} fails in the serving process: {result}")
        check_outputs(index, result, sample.outputs, loaded.plan.tolerances)
        if perf_counter_ns() > deadline_ns:
            return


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
    outputs = tuple(loaded.signature.outputs)
    _, first_ns = loaded.run(zeros, outputs)
    if first_ns > _AGAIN_NS:
        return
    # Once more, to know how long it takes: else the first request of a quick model would wait for a worker.
    result, run_ns = loaded.run(zeros, outputs)
    if not isinstance(result, EdgeAgentError):
        loaded.note_run(run_ns, sum(tensor.nbytes for tensor in zeros.values()))
