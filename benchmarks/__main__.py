"""`make bench`: the benchmarks, each in a process of its own.

    python -m benchmarks [--json] [NAME …]

Names choose among them; those of LONG, which take long and download much, run only when they are named
(`make bench BENCH=converters`), and have options of their own (`python -m benchmarks.converters --help`).
"""

import argparse
import json
import subprocess
import sys

MODULES = (
    "benchmarks.serving.added",
    "benchmarks.serving.swap",
    "benchmarks.cache_digest",
    "benchmarks.outcomes",
    "benchmarks.footprint",
    "benchmarks.update_hint",
    "benchmarks.store_size",
)
LONG = ("benchmarks.converters", "benchmarks.serving")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure the targets of the project.")
    parser.add_argument("--json", action="store_true", help="one JSON list of name, value, unit, target, met")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks with this in their name")
    args = parser.parse_args()
    modules = chosen(args.names)
    if not modules:
        sys.exit(f"No benchmark is named like that; there are: {', '.join((*MODULES, *LONG))}.")
    rows: list[object] = []
    worst = 0
    for module in modules:
        if not args.json:
            print(f"\n{module}", flush=True)
        command = [sys.executable, "-m", module, *(["--json"] if args.json else [])]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE if args.json else None)
        worst = max(worst, done.returncode)
        if args.json and done.stdout:
            found = json.loads(done.stdout)
            rows += found["rows"] if isinstance(found, dict) else found
    if args.json:
        print(json.dumps(rows, indent=1))
    return worst


def chosen(names: list[str]) -> list[str]:
    """Return the modules with one of the names in theirs, all but the long ones without a name."""
    if not names:
        return list(MODULES)
    named = [module for module in (*MODULES, *LONG) if any(name in module for name in names)]
    parts = {"benchmarks.serving.added"} if "benchmarks.serving" in named else set()
    return [module for module in named if module not in parts]


if __name__ == "__main__":
    sys.exit(main())
