"""Latency after the trials: nothing else runs, and the files take turns, so that conditions are the same."""

import platform
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from converters import arrays
from converters.arrays import Sample
from converters.package import plain_blob
from converters.report.model import Package
from converters.terms import Advanced
from converters.workers.trials import Bench, installed_runtimes
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.manifest import Manifest, Variant, blob_path

TURNS: Final = 3


@dataclass(frozen=True, slots=True)
class Timed:
    """A file to time: a variant of a package."""

    package: Package
    variant: Variant

    @property
    def sha256(self) -> str:
        """The digest of the file as it is run; equal files are timed once."""
        return self.variant.file.kept_sha256


def latencies_ms(
    files: Sequence[Timed], folder: Path, advanced: Advanced
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the median milliseconds of a run by digest, and by digest why a file could not be timed.

    Each file is loaded and timed in a process of its own in each turn, with the first golden sample; `folder`
    takes the unpacked files. `advanced` hears the share that is done.
    """
    distinct = {file.sha256: file for file in files}
    reasons = {sha256: why for sha256, file in distinct.items() if (why := _obstacle(file.variant))}
    ready = {sha256: file for sha256, file in distinct.items() if sha256 not in reasons}
    times: dict[str, list[float]] = {sha256: [] for sha256 in ready}
    for turn in range(TURNS):
        for index, (sha256, file) in enumerate(ready.items()):
            advanced((turn + index / len(ready)) / TURNS)
            if sha256 in reasons:
                continue
            try:
                times[sha256].append(_once(file, folder))
            except EdgeAgentError as error:
                reasons[sha256] = str(error)
    medians = {sha256: statistics.median(taken) for sha256, taken in times.items() if sha256 not in reasons}
    return medians, reasons


def _obstacle(variant: Variant) -> str:
    architectures = variant.requires.architectures
    if architectures and platform.machine() not in architectures:
        return f"for {', '.join(architectures)}, so not timed on this host"
    return ""


def _once(file: Timed, folder: Path) -> float:
    path = plain_blob(file.package.folder, file.variant.file, folder / f"{file.sha256}.{file.variant.engine}")
    with ExitStack() as stack:
        bench = Bench(folder, stack)
        loaded = bench.load(file.variant.engine, _runtime(file.variant), path)
        return bench.latencies_ms([loaded], _sample(file.package.folder, file.package.manifest))[0]


def _runtime(variant: Variant) -> str:
    here = installed_runtimes(variant.engine)
    return next((one for one in here if one in variant.requires.runtimes), here[0])


def _sample(folder: Path, manifest: Manifest) -> Sample:
    assert manifest.golden is not None
    golden = folder / blob_path(manifest.golden.file.sha256)
    return arrays.read_samples(golden, "input", [tensor.name for tensor in manifest.inputs], 1)[0]
