"""The probe: a child that tries one version on this device before it may serve.

`python -m edge_agent.control.probe` reads one `ipc.ProbeRequest` from standard input, loads the model, runs its
golden samples within the manifest's tolerances, measures, and writes one `ipc.ProbeVerdict`.
"""

import os
import resource
import statistics
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.documents import ipc
from edge_agent.documents.errors import (
    ArtifactError,
    EdgeAgentError,
    EngineSetupError,
    GoldenError,
    ModelLoadError,
)
from edge_agent.documents.plan import Limit, VersionPlan
from edge_agent.documents.tensors import TensorSpec
from edge_agent.engines import base

Arrays = dict[str, NDArray[Any]]


class Sample(NamedTuple):
    """One golden sample: inputs, and the float model's outputs, by tensor name."""

    inputs: Arrays
    outputs: Arrays


def main() -> None:
    """Answer one request; whatever the model prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=ipc.ProbeRequest)
    answers.write(msgspec.json.encode(verdict(request)) + b"\n")
    answers.flush()
    # Some runtimes crash in their destructors; the verdict is given, so nothing is left to tidy up.
    os._exit(0)


def verdict(request: ipc.ProbeRequest) -> ipc.ProbeVerdict:
    """Try the version and say whether it may be served here."""
    version = request.version
    try:
        return _try(version, request)
    except MemoryError:
        return ipc.ProbeVerdict(
            outcome="inconclusive",
            reason="The device had too little memory to try it.",
            peak_bytes=_peak_bytes(),
        )
    except (OSError, ArtifactError) as error:
        return ipc.ProbeVerdict(outcome="inconclusive", reason=f"Its files could not be read: {error}")
    except EngineSetupError as error:
        return ipc.ProbeVerdict(outcome="inconclusive", reason=str(error), peak_bytes=_peak_bytes())
    except EdgeAgentError as error:
        return ipc.ProbeVerdict(outcome="failed", reason=str(error), peak_bytes=_peak_bytes())


def _try(version: VersionPlan, request: ipc.ProbeRequest) -> ipc.ProbeVerdict:
    samples = read_golden(Path(version.golden_path)) if version.golden_path is not None else []
    kind = base.find(version.engine)
    started = time.perf_counter()
    engine = kind.load(Path(version.path), request.engines)
    load_s = time.perf_counter() - started
    check_signature(version, engine.inputs, engine.outputs)
    durations = [_run(engine, version, index, sample) for index, sample in enumerate(samples)]
    return ipc.ProbeVerdict(
        outcome="passed",
        runtime=kind.runtime(request.engines) or "",
        load_s=load_s,
        run_s=statistics.median(durations) if durations else 0.0,
        peak_bytes=_peak_bytes(),
    )


def _run(engine: base.Engine, version: VersionPlan, index: int, sample: Sample) -> float:
    started = time.perf_counter()
    got = engine.run(sample.inputs)
    duration_s = time.perf_counter() - started
    check_outputs(index, got, sample.outputs, version.tolerances)
    return duration_s


def read_golden(path: Path) -> list[Sample]:
    """Read golden samples in the layout of `manifest.Golden`; raises GoldenError for any other."""
    samples: dict[int, Sample] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                index, kind, tensor = name.split("/", 2)
                sample = samples.setdefault(int(index), Sample({}, {}))
                {"input": sample.inputs, "output": sample.outputs}[kind][tensor] = archive[name]
    except (ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise GoldenError(f"Its golden samples are malformed ({error}); package the version again.") from error
    return [samples[index] for index in sorted(samples)]


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


def check_outputs(index: int, got: Arrays, want: Arrays, tolerances: dict[str, Limit]) -> None:
    """Raise GoldenError unless every golden output is met: |got - want| <= atol + rtol * |want|.

    An output without a tolerance must be equal; one that is not finite where the golden one is fails.
    """
    for name, expected in want.items():
        if name not in got:
            raise GoldenError(f"Golden sample {index}: the model gave no output '{name}'.")
        actual = got[name]
        if actual.shape != expected.shape:
            raise GoldenError(
                f"Golden sample {index}: output '{name}' has shape {list(actual.shape)}, not "
                f"{list(expected.shape)}."
            )
        excess = _excess(actual, expected, tolerances.get(name, Limit()))
        if excess is not None:
            raise GoldenError(f"Golden sample {index}: output '{name}' {excess}.")


def _excess(actual: NDArray[Any], expected: NDArray[Any], limit: Limit) -> str | None:
    """Say how an output misses its tolerance, or None if it does not."""
    if actual.dtype.kind not in "fiub" or expected.dtype.kind not in "fiub":
        return None if np.array_equal(actual, expected) else "differs"
    got, want = actual.astype(np.float64), expected.astype(np.float64)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    if not np.isfinite(got[~same]).all():
        return "is not finite"
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(got - want))
        within = error <= limit.atol + limit.rtol * np.where(same, 0.0, np.abs(want))
    if within.all():
        return None
    return f"is off by {error.max():.4g}, more than the tolerance of {limit.atol:.4g}"


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
