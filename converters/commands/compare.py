"""`edge-convert compare`."""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from converters.commands import show, show_models
from converters.commands.arguments import Commands, add_command, add_generated, add_layers, print_json
from converters.inspection.comparison import Given, compare, read_side
from converters.workers.trials import Bench

_EXAMPLES: Final = """\
examples:
  edge-convert compare model.onnx model-int8.onnx --data samples.npz
      size, operators and weights by layer; agreement, largest error, latency and memory on the same samples
  edge-convert compare packages/model/1 packages/model/2 --precision int8
      the int8 variants of two versions, and the metrics of all
  edge-convert compare model.onnx model.tflite --layers all --json

Models whose inputs differ are compared as files only; the last line then says why they were not run.
"""


def add(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, "compare", "compare two model files or packages side by side", _EXAMPLES)
    for name in ("a", "b"):
        parser.add_argument(
            name, type=Path, metavar=name.upper(), help="an .onnx or .tflite file, or a package's folder"
        )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE.npz",
        help="samples to run both on, labels in 'y' (default: generated ones)",
    )
    parser.add_argument(
        "--precision",
        metavar="P",
        help="the variant of a package to take (default: the first one for this host)",
    )
    add_generated(parser)
    add_layers(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and print; raises what reading either of the two raises, and DataError for unfitting data."""
    given = Given(args.data, dict(args.range), dict(args.shape), args.samples)
    with (
        show.progress_bar(sys.stderr) as progress,
        tempfile.TemporaryDirectory(prefix="edge-convert-") as folder,
        ExitStack() as stack,
    ):
        bench = Bench(Path(folder), stack)
        progress(f"read {args.a.name}", 0.0)
        a = read_side(args.a, args.precision, bench, Path(folder))
        progress(f"read {args.b.name}", 0.25)
        b = read_side(args.b, args.precision, bench, Path(folder))
        progress("run both on the same samples", 0.5)
        found = compare(a, b, bench, given)
    if args.json:
        print_json(found.as_json())
    else:
        show_models.show_comparison(found, sys.stdout, args.layers)
    return 0
