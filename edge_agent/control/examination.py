"""Tries one version: loads it, runs its golden samples within the manifest's tolerances, measures."""

import statistics
import time
from pathlib import Path
from typing import Final

from edge_agent.documents import ipc
from edge_agent.documents.errors import (
    ArtifactError,
    EdgeAgentError,
    EngineSetupError,
    GoldenError,
    ModelLoadError,
    ModelMemoryError,
)
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import TensorSpec
from edge_agent.engines import artifacts, base, blank
from edge_agent.engines.golden import Sample, check_outputs, read_golden
from edge_agent.telemetry.memory import free_bytes, kilobytes

_ROOM: Final = 4
"""Where so many times the file's size is free, what failed for lack of memory asked for too much."""


def verdict(version: VersionPlan, engines: EngineSettings) -> ipc.ProbeVerdict:
    """Try the version and say whether it may be served here."""
    try:
        return _try(version, engines)
    except (MemoryError, ModelMemoryError) as error:
        return _without_memory(version, error)
    except (OSError, ArtifactError) as error:
        reason = f"Its files could not be read: {error}"
        return ipc.ProbeVerdict(outcome="inconclusive", reason=reason, is_unreadable=True)
    except EngineSetupError as error:
        return ipc.ProbeVerdict(outcome="inconclusive", reason=str(error), peak_bytes=_peak_bytes())
    except EdgeAgentError as error:
        return ipc.ProbeVerdict(outcome="failed", reason=str(error), peak_bytes=_peak_bytes())


def _try(version: VersionPlan, engines: EngineSettings) -> ipc.ProbeVerdict:
    samples = read_golden(Path(version.golden_path)) if version.golden_path is not None else []
    kind = base.find(version.engine)
    artifacts.check(version.engine, Path(version.path))
    started = time.perf_counter()
    engine = kind.load(Path(version.path), engines)
    load_s = time.perf_counter() - started
    check_signature(version, engine.inputs, engine.outputs)
    if samples:
        durations = [_run(engine, version, index, sample) for index, sample in enumerate(samples)]
    else:
        durations = _run_blank(engine, version)
    return ipc.ProbeVerdict(
        outcome="passed",
        runtime=kind.runtime(engines) or "",
        load_s=load_s,
        run_s=statistics.median(durations) if durations else 0.0,
        peak_bytes=_peak_bytes(),
    )


def _run(engine: base.Engine, version: VersionPlan, index: int, sample: Sample) -> float:
    started = time.perf_counter()
    got = engine.run(sample.inputs)
    duration_s = time.perf_counter() - started
    check_outputs(index, got, sample.outputs, version.tolerances)
    _check_duration(version, duration_s)
    return duration_s


def _run_blank(engine: base.Engine, version: VersionPlan) -> list[float]:
    """Run a version that has no golden samples once, on zeros.

    One with more free dimensions than the first may refuse the sizes that were made up for it.
    """
    inputs = blank.zeros(engine.inputs)
    started = time.perf_counter()
    try:
        got = engine.run(inputs)
    except ModelMemoryError:
        raise
    except ModelLoadError:
        if any(-1 in spec.shape[1:] for spec in engine.inputs):
            return []
        raise
    duration_s = time.perf_counter() - started
    blank.check_outputs(got, version.outputs)
    _check_duration(version, duration_s)
    return [duration_s]


def _check_duration(version: VersionPlan, duration_s: float) -> None:
    if duration_s > version.run_limit_s:
        raise GoldenError(
            f"One run took {duration_s:.3g} s on this device, and its manifest allows {version.run_limit_s:g}."
        )


def _without_memory(version: VersionPlan, error: Exception) -> ipc.ProbeVerdict:
    """Tell a device that has no memory left from a model that asks for more than it could ever have."""
    if free_bytes() < _ROOM * version.size_bytes:
        reason = "The device had too little memory to try it."
        return ipc.ProbeVerdict(outcome="inconclusive", reason=reason, peak_bytes=_peak_bytes())
    said = str(error) or type(error).__name__
    reason = f"It asks for more memory at once than this device can give: {said}"
    return ipc.ProbeVerdict(outcome="failed", reason=reason, peak_bytes=_peak_bytes())


def check_signature(
    version: VersionPlan, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Raise ModelLoadError unless the loaded model has the inputs and outputs that the manifest names.

    A fixed dimension in the model may be free in the manifest's other variants, and the other way round.
    """
    for kind, want, have in (("input", version.inputs, inputs), ("output", version.outputs, outputs)):
        loaded = {spec.name: spec for spec in have}
        for spec in want:
            if spec.name not in loaded:
                names = ", ".join(sorted(loaded))
                raise ModelLoadError(f"The file has no {kind} '{spec.name}'; it has {names}.")
            if spec.datatype != loaded[spec.name].datatype:
                raise ModelLoadError(
                    f"The {kind} '{spec.name}' is {loaded[spec.name].datatype} in the file and {spec.datatype} "
                    "in the manifest; package the version again."
                )
            if not _agree(spec.shape, loaded[spec.name].shape):
                raise ModelLoadError(
                    f"The {kind} '{spec.name}' has the shape {list(loaded[spec.name].shape)} in the file and "
                    f"{list(spec.shape)} in the manifest; package the version again."
                )


def _agree(want: tuple[int, ...], have: tuple[int, ...]) -> bool:
    """Say whether two shapes can be those of one tensor: a free dimension may be any in the other."""
    return len(want) == len(have) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(want, have, strict=True)
    )


def _peak_bytes() -> int:
    """Return the highest resident size of this program; rusage has that of the process before exec, too."""
    return kilobytes(Path("/proc/self/status").read_text(), "VmHWM")
