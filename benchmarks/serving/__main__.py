"""How fast serving is: beside other servers, and beside bare calls of the runtime.

    python -m benchmarks.serving [--json] [--quick] [--only NAME …] [--soak MINUTES] [--plot PATH]

Everything is measured in one run, as ratios or differences within it; servers that are compared take turns. The
peers are installed at the first run, into .cache/benchmarks/serving, which takes some minutes and 2 GB; wrk and
h2load (Debian: wrk, nghttp2-client) must be installed. Each part is a process of its own, so that none is
measured beside what another has loaded, and can be run by itself: `python -m benchmarks.serving.added`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.serving.generators import check_installed
from benchmarks.serving.plot import draw
from benchmarks.serving.rows import Row, as_json, from_json, text

PARTS = {
    "added": "what serving adds to a bare run, on one CPU",
    "against_peers": "beside Triton, MLServer, LitServe and FastAPI",
    "busy": "many clients, and batching",
    "process": "memory and start",
    "real_models": "real models beside Triton and the bare runtime",
}
PLOT = Path(__file__).parents[2] / "docs/images/serving.svg"


def main() -> int:
    args = parse(sys.argv[1:])
    check_installed()
    rows = [row for part in args.only or PARTS for row in measured(part, ["--quick"] if args.quick else [])]
    if args.soak:
        rows += measured("soak", ["--minutes", f"{args.soak:g}"])
    if args.plot is not None:
        draw(rows, args.plot)
    print(json.dumps(document(rows), indent=1) if args.json else "\n".join(text(rows)))
    return 0 if all(row.met is not False for row in rows) else 1


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="parts:\n" + "\n".join(f"  {name:<15}{what}" for name, what in PARTS.items()),
    )
    parser.add_argument("--json", action="store_true", help="one JSON object with the rows")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, to see that it works")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help="these parts alone")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="mixed load for so long, afterwards")
    parser.add_argument(
        "--plot", type=Path, nargs="?", const=PLOT, metavar="PATH",
        help="draw the comparison with peers into an SVG file (default: docs/images/serving.svg)",
    )  # fmt: skip
    return parser.parse_args(words)


def measured(part: str, options: Sequence[str]) -> Iterator[Row]:
    """Measure one part, in a process of its own; ends the program if that fails."""
    command = [sys.executable, "-m", f"benchmarks.serving.{part}", "--json", *options]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if not done.stdout:
        sys.exit(f"The part {part} could not be measured; see above.")
    yield from map(from_json, json.loads(done.stdout))


def document(rows: Sequence[Row]) -> dict[str, object]:
    """Return all that was measured, and where, as one JSON object."""
    return {
        "rows": [as_json(row) for row in rows],
        "machine": {"cpus": len(os.sched_getaffinity(0)), "architecture": platform.machine()},
        "python": platform.python_version(),
        "onnxruntime": metadata.version("onnxruntime"),
    }


if __name__ == "__main__":
    sys.exit(main())
