"""What conversion costs and wins, on real models and data, against the targets of the converters.

    scripts/fetch-benchmark-data
    python -m benchmarks.converters [--json | --markdown] [--only NAME] [--seeds 5] [--quick]

Trained models are trained again with every seed, on another split; shipped ones get other samples. The scores
are taken from the packaged files on samples that neither training nor the converter saw. Latencies are medians
of one run with all cores, in turns; memory is what loading and running add to a process that has the runtime's
library. tflite-runtime is measured with the first seed only: its int8 is slow on x86.
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

from benchmarks.converters import building, eager, measuring, results
from benchmarks.converters.building import Built, Refused
from benchmarks.converters.cases import CASES
from benchmarks.converters.fetch import WHEELS, FetchError, cached
from benchmarks.converters.measuring import Line
from benchmarks.converters.results import TORCH, Result
from benchmarks.converters.subjects import Case, Subject

ALL_RUNTIMES = ("onnxruntime", "ai-edge-litert", "tflite-runtime")


def main() -> int:
    options = _parser().parse_args()
    cases = [case for case in CASES if not options.only or any(name in case.name for name in options.only)]
    try:
        for wheel in WHEELS:
            for name in wheel.files:
                cached(Path(name).name)
    except FetchError as error:
        sys.exit(str(error))
    if not cases:
        sys.exit(f"No model is named like that; there are: {', '.join(case.name for case in CASES)}.")
    # What exporters and quantizers print must not end up among the rows.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    found: list[results.Row] = []
    for case in cases:
        result = measure(case, 1 if options.quick else options.seeds, quick=options.quick)
        found += results.rows(result)
        if not options.json:
            print(results.markdown(result) if options.markdown else results.text(result), file=out, flush=True)
    if options.json:
        print(json.dumps(found, indent=1), file=out, flush=True)
    return 0 if all(row["met"] is not False for row in found) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print rows of name, value, unit, target, met")
    form.add_argument("--markdown", action="store_true", help="print tables for docs/converters.md")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="models with this in their name; repeatable"
    )
    parser.add_argument("--seeds", type=int, default=5, help="how often each model is trained (default 5)")
    parser.add_argument("--quick", action="store_true", help="one seed, short training, fewer samples")
    return parser


def measure(case: Case, seeds: int, *, quick: bool) -> Result:
    """Measure a case with every seed; what is refused is told as of the first seed that shows it."""
    lines: list[list[Line]] = []
    refused: dict[tuple[str, str], Refused] = {}
    for seed in range(seeds):
        subject = case.make(seed, quick)
        with tempfile.TemporaryDirectory(prefix="bench-converters-") as name:
            folder = Path(name)
            built, failed = _build(case, subject, folder, quick=quick)
            runtimes = ALL_RUNTIMES if seed == 0 else ALL_RUNTIMES[:2]
            lines.append(measuring.measure(subject, built, folder, runtimes))
        if "torch" in case.checks:
            lines[-1].append(torch_line(subject, lines[-1]))
        for one in failed:
            refused.setdefault((one.format, one.variant), one)
    return Result(case, measuring.merged(lines), tuple(refused.values()))


def _build(case: Case, subject: Subject, folder: Path, *, quick: bool) -> tuple[list[Built], list[Refused]]:
    made = building.build(case, subject, folder, quick=quick)
    return [one for one in made if isinstance(one, Built)], [one for one in made if isinstance(one, Refused)]


def torch_line(subject: Subject, lines: list[Line]) -> Line:
    """Measure torch's own dynamic quantization of the model that the ONNX files were made of."""
    quantized = eager.quantized(subject.model)
    content = eager.state_bytes(quantized)
    answers, latency_ms = eager.answers(quantized, subject.test)
    line = Line(TORCH, "torch", "torch", True, len(content), measuring.compressed(content))
    line.score.append(subject.score(answers, answers))
    line.latency_ms.append(latency_ms)
    return line


if __name__ == "__main__":
    sys.exit(main())
