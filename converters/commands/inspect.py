"""`edge-convert inspect`."""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from converters.commands import show, show_models
from converters.commands.arguments import Commands, add_command, add_layers, print_json
from converters.inspection.models import (
    Inspected,
    InspectedPackage,
    find_package,
    inspect_model,
    inspect_package,
)
from converters.workers.trials import Bench

_EXAMPLES: Final = """\
examples:
  edge-convert inspect model.tflite
      signature, operators, the 10 largest layers, estimated memory and what runs it here
  edge-convert inspect model.onnx --layers all
  edge-convert inspect packages/model/20261122_101500 --json
      the manifest, and under "models" what each variant's file is
"""


def add(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, "inspect", "show what is in a model file or a package", _EXAMPLES)
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="an .onnx or .tflite file, or a package's folder"
    )
    add_layers(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Inspect and print; raises what inspecting raises."""
    found = _inspected(args.path)
    if args.json:
        print_json(found.as_json())
    elif isinstance(found, InspectedPackage):
        show_models.show_package_content(found, sys.stdout, args.layers)
    else:
        show_models.show_model(found, sys.stdout, args.layers)
    return 0


def _inspected(path: Path) -> Inspected | InspectedPackage:
    package = find_package(path)
    with (
        show.progress_bar(sys.stderr) as progress,
        tempfile.TemporaryDirectory(prefix="edge-convert-") as folder,
        ExitStack() as stack,
    ):
        bench = Bench(Path(folder), stack)
        if package is None:
            return inspect_model(path, bench, progress)
        return inspect_package(*package, bench, Path(folder), progress)
