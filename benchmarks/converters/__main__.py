"""What conversion costs and wins, on real models and data, against the targets of the converters.

    scripts/fetch-benchmark-data
    python -m benchmarks.converters [--json | --markdown] [--only NAME] [--seeds 5] [--quick]
                                    [--no-latency | --latency-only | --kept] [--resume]

Trained models are trained again with every seed, on another split; shipped ones get other samples. The scores
are taken from the packaged files on samples that neither training nor the converter saw. Latencies are medians
of one run with all cores, in turns, of the first seed's files; memory is what loading and running add to a
process that has the runtime's library. tflite-runtime, whose int8 is slow on x86, gets the first seed alone and
fewer samples, and is not timed where a run takes over 100 ms.

Scores and sizes do not depend on what else the machine does, latencies do: `--no-latency` and `--latency-only`
measure them apart, what is measured is kept in .cache/benchmarks/results, and `--kept` prints it again.
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

from benchmarks.converters import building, eager, measuring, results, tables
from benchmarks.converters.building import Built, Refused
from benchmarks.converters.cases import CASES, QUICK
from benchmarks.converters.fetch import WHEELS, FetchError, cached
from benchmarks.converters.kept import Kept
from benchmarks.converters.subjects import Case

ALL_RUNTIMES = ("onnxruntime", "ai-edge-litert", "tflite-runtime")


def main() -> int:
    options = _parser().parse_args()
    cases = _chosen(options)
    try:
        for wheel in WHEELS:
            for name in wheel.files:
                cached(Path(name).name)
    except FetchError as error:
        sys.exit(str(error))
    # What exporters and quantizers print must not end up among the rows.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    found: list[results.Result] = []
    for case in cases:
        kept = Kept(case, quick=options.quick)
        measure(kept, options)
        result = kept.result()
        if result is not None:
            found.append(result)
            if not (options.json or options.markdown):
                print(tables.text(result), file=out, flush=True)
    rows = [row for result in found for row in results.rows(result)]
    if options.json:
        print(json.dumps(rows, indent=1), file=out, flush=True)
    if options.markdown:
        print(tables.markdown(found), file=out, flush=True)
    return 0 if all(row["met"] is not False for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.converters", description=str(__doc__).splitlines()[0]
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print rows of name, value, unit, target, met")
    form.add_argument("--markdown", action="store_true", help="print tables for docs/converters.md")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="models with this in their name; repeatable"
    )
    parser.add_argument("--seeds", type=int, default=5, help="how often each model is trained (default 5)")
    parser.add_argument(
        "--quick", action="store_true", help="few models, one seed, short training, few samples"
    )
    stage = parser.add_mutually_exclusive_group()
    stage.add_argument("--no-latency", action="store_true", help="measure scores and sizes, which load spares")
    stage.add_argument("--latency-only", action="store_true", help="measure latency and memory of what is kept")
    stage.add_argument("--kept", action="store_true", help="measure nothing, print what is kept")
    parser.add_argument("--resume", action="store_true", help="leave out seeds whose scores are kept")
    return parser


def _chosen(options: argparse.Namespace) -> list[Case]:
    among = [case for case in CASES if case.name in QUICK] if options.quick and not options.only else CASES
    cases = [case for case in among if not options.only or any(name in case.name for name in options.only)]
    if not cases:
        sys.exit(f"No model is named like that; there are: {', '.join(case.name for case in CASES)}.")
    return cases


def measure(kept: Kept, options: argparse.Namespace) -> None:
    """Do the stages that were asked for and keep what is found."""
    if not (options.latency_only or options.kept):
        if not options.resume:
            kept.clear()
        for seed in range(1 if options.quick else options.seeds):
            if not kept.has(seed):
                _score(kept, seed, quick=options.quick)
    if not (options.no_latency or options.kept):
        _clock(kept)


def _score(kept: Kept, seed: int, *, quick: bool) -> None:
    case = kept.case
    subject = case.make(seed, quick)
    with tempfile.TemporaryDirectory(prefix="bench-converters-") as name:
        folder = Path(name)
        made = building.build(case, subject, folder, quick=quick)
        built = [one for one in made if isinstance(one, Built)]
        lines = measuring.score(subject, built, folder, ALL_RUNTIMES if seed == 0 else ALL_RUNTIMES[:2])
        beside_torch = "torch" in case.checks
        if beside_torch:
            lines += eager.score(subject)
        if seed == 0:
            kept.write_files(built, subject.test[0], subject.model if beside_torch else None)
    kept.write_scores(seed, lines, [one for one in made if isinstance(one, Refused)])


def _clock(kept: Kept) -> None:
    files = kept.files()
    if not files:
        return
    sample, model = kept.sample(), kept.model()
    with tempfile.TemporaryDirectory(prefix="bench-converters-") as name:
        timings = measuring.clock(files, sample, Path(name))
    if model is not None:
        timings += eager.clock(model, sample)
    kept.write_timings(timings)


if __name__ == "__main__":
    sys.exit(main())
