"""`make bench`: all benchmarks, each in a process of its own.

python -m benchmarks [--json]
"""

import argparse
import json
import subprocess
import sys

MODULES = (
    "benchmarks.serving.latency",
    "benchmarks.cache_digest",
    "benchmarks.outcomes",
    "benchmarks.footprint",
    "benchmarks.update_hint",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure the targets of the project.")
    parser.add_argument("--json", action="store_true", help="one JSON list of name, value, unit, target, met")
    args = parser.parse_args()
    rows: list[object] = []
    worst = 0
    for module in MODULES:
        if not args.json:
            print(f"\n{module}", flush=True)
        command = [sys.executable, "-m", module, *(["--json"] if args.json else [])]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE if args.json else None)
        worst = max(worst, done.returncode)
        if args.json and done.stdout:
            rows += json.loads(done.stdout)
    if args.json:
        print(json.dumps(rows, indent=1))
    return worst


if __name__ == "__main__":
    sys.exit(main())
