"""What was measured, kept in .cache/benchmarks/results so that scores and latencies can be measured apart.

A folder for each case: `seed-N.json` with the scores and sizes, the first seed's files with one sample for each
format, and `latency.json`.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.converters import measuring
from benchmarks.converters.building import Built, Refused
from benchmarks.converters.fetch import CACHE
from benchmarks.converters.measuring import Line, Timing
from benchmarks.converters.results import Result
from benchmarks.converters.subjects import Case, Sample

RESULTS = CACHE / "results"


class Kept:
    """One case's folder; quick measurements are kept apart from full ones."""

    def __init__(self, case: Case, *, quick: bool) -> None:
        self.case = case
        self.folder = RESULTS / ("quick" if quick else "full") / case.name

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def has(self, seed: int) -> bool:
        return self._seed(seed).is_file()

    def write_scores(self, seed: int, lines: Sequence[Line], refused: Sequence[Refused]) -> None:
        content = {"lines": [asdict(line) for line in lines], "refused": [asdict(one) for one in refused]}
        self._write(self._seed(seed), content)

    def write_files(self, files: Sequence[Built], sample: Sample, model: Any) -> None:
        """Keep the files, one sample, and the live PyTorch model where there is one to compare with."""
        self.folder.mkdir(parents=True, exist_ok=True)
        copies = []
        for index, file in enumerate(files):
            copy = self.folder / f"{index}.{file.format}"
            shutil.copyfile(file.path, copy)
            copies.append(replace(file, path=copy))
        np.savez(self.folder / "sample.npz", **sample)
        if model is not None:
            import torch

            torch.save(model, self.folder / "model.pt")
        self._write(self.folder / "files.json", [asdict(one) | {"path": one.path.name} for one in copies])

    def files(self) -> list[Built]:
        """Return the first seed's files, none if no score was measured yet."""
        path = self.folder / "files.json"
        if not path.is_file():
            return []
        return [
            Built(**one | {"path": self.folder / one["path"], "runtimes": tuple(one["runtimes"])})
            for one in json.loads(path.read_text())
        ]

    def sample(self) -> Sample:
        with np.load(self.folder / "sample.npz") as arrays:
            return dict(arrays)

    def model(self) -> Any | None:
        """Return the live model that `write_files` kept; this program alone wrote it."""
        path = self.folder / "model.pt"
        if not path.is_file():
            return None
        import torch

        return torch.load(path, weights_only=False)

    def write_timings(self, timings: Sequence[Timing]) -> None:
        self._write(self.folder / "latency.json", [asdict(one) for one in timings])

    def result(self) -> Result | None:
        """Return all that is kept; what is refused is told as of the first seed that shows it."""
        seeds = [json.loads(path.read_text()) for path in sorted(self.folder.glob("seed-*.json"))]
        if not seeds:
            return None
        lines = measuring.merged([[Line(**line) for line in seed["lines"]] for seed in seeds])
        refused: dict[tuple[str, str], Refused] = {}
        for seed in seeds:
            for one in seed["refused"]:
                refused.setdefault((one["format"], one["variant"]), Refused(**one))
        self._add_timings(lines)
        return Result(self.case, lines, tuple(refused.values()), len(seeds))

    def _add_timings(self, lines: Sequence[Line]) -> None:
        path = self.folder / "latency.json"
        timings = [Timing(**one) for one in json.loads(path.read_text())] if path.is_file() else []
        by_key = {(one.format, one.runtime, one.variant): one for one in timings}
        for line in lines:
            if found := by_key.get((line.format, line.runtime, line.variant)):
                line.latency_ms, line.memory_bytes = found.latency_ms, found.memory_bytes

    def _seed(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}.json"

    def _write(self, path: Path, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1))
        partial.replace(path)
