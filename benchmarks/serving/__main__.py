"""How fast serving is: beside other servers, and beside bare calls of the runtime.

    python -m benchmarks.serving [--json] [--quick] [--only added|busy|peers|process] [--plot PATH]

Everything is measured in one run, as ratios or differences within it. The peers are installed at the first run,
into .cache/benchmarks/serving, which takes some minutes and 2 GB; wrk and h2load (Debian: wrk, nghttp2-client)
must be installed. Each part can be run by itself, too: `python -m benchmarks.serving.added`.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from benchmarks.serving import added, against_peers, busy, process
from benchmarks.serving.plot import draw
from benchmarks.serving.rows import as_json, text

PARTS = {
    "added": added.measure,
    "busy": busy.measure,
    "peers": against_peers.measure,
    "process": process.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object with the rows")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, to see that it works")
    parser.add_argument(
        "--only", action="append", choices=sorted(PARTS), help="this part alone; may be repeated"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="PATH", help="draw the comparison with peers into an SVG file"
    )
    args = parser.parse_args()
    for program, package in (("wrk", "wrk"), ("h2load", "nghttp2-client")):
        if shutil.which(program) is None:
            sys.exit(f"The benchmark needs {program}; on Debian: apt-get install {package}")
    rows = [row for name in args.only or PARTS for row in PARTS[name](args.quick)]
    if args.plot is not None:
        draw(rows, args.plot)
    print(
        json.dumps({"rows": [as_json(row) for row in rows]}, indent=1) if args.json else "\n".join(text(rows))
    )
    return 0 if all(row.met is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
