"""The probe: a child that tries one version on this device before it may serve.

`python -m edge_agent.control.probe` reads one `ipc.ProbeRequest` from standard input, loads the model, runs its
golden samples within the manifest's tolerances, measures, and writes one `ipc.ProbeVerdict`.
"""

import os
import resource
import statistics
import sys
import time
from pathlib import Path

import msgspec

from edge_agent.documents import ipc
from edge_agent.documents.errors import (
    ArtifactError,
    EdgeAgentError,
    EngineSetupError,
    ModelLoadError,
)
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.tensors import TensorSpec
from edge_agent.engines import base
from edge_agent.engines.golden import Sample, check_outputs, read_golden


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


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
