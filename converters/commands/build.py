"""`edge-convert build`: a recipe or a model, and flags that say more."""

import argparse
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from converters.checks.gate import DEFAULT_MAX_DROP
from converters.commands import show
from converters.commands.arguments import (
    Commands,
    add_command,
    count,
    non_negative,
    print_json,
    shape,
    value_range,
    words,
)
from converters.conversion import recipe
from converters.conversion.build import build
from converters.conversion.recipe import Recipe
from converters.data.settings import GENERATED

EXAMPLES: Final = """\
examples:
  edge-convert build model.onnx
      without data: the model as it is and a dynamic variant, checked and packaged under packages/model/
  edge-convert build recipe.toml --version 1.2.0
      everything that the recipe says; flags win over it
  edge-convert build model.keras --data images/ --precision fp32,int8
      a folder of images for each class: some calibrate, the others evaluate; ONNX and TFLite
  edge-convert build nets:make_model --weights weights.pt --data train.npz --precision int8 --search
      PyTorch: the module that nets.make_model() returns; layers that cost accuracy stay in float
  edge-convert build model.keras --data train.npz --prune 0.8 --precision int8 --max-drop 0.5
      80 % of the weights become zero while the model is fine-tuned, then int8
  edge-convert build magika.onnx --range bytes=0:256
      says what integers to generate for the input 'bytes' where no data is given

data: .npz (an array per input, samples along axis 0, class numbers in 'y'), .npy, .csv, .parquet, a folder of
images or of .wav files, or package.module:function:
  numpy.savez("samples.npz", image=images, y=classes)

a recipe (docs/converters.md has every key):
  model = "model.keras"
  precision = ["fp32", "int8"]
  [data]
  path = "train.npz"
  [gate]
  max_drop = 0.5
"""

COMMAND_LINE: Final = "The command line"
"""What a wrong key is blamed on where there is no recipe's file."""


@dataclass(frozen=True, slots=True)
class _Flag:
    """A flag that sets one key of the recipe."""

    option: str
    key: str
    help: str
    metavar: str | None = None
    read: Callable[[str], Any] = str
    constant: Any = None
    """What the flag means, for one without a value."""
    choices: tuple[str, ...] | None = None


_FLAGS: Final[dict[str, tuple[_Flag, ...]]] = {
    "what is made": (
        _Flag("--name", "name", "what the model is called; default: the file's name", "NAME"),
        _Flag("--version", "version", "of the package; default: UTC time as YYYYmmdd_HHMMSS", "V"),
        _Flag("--to", "to", "formats: onnx, tflite; default: every one that can be made", "F[,F]", words),
        _Flag(
            "--precision",
            "precision",
            "among fp32, fp16, dynamic, int8, int16x8 (the last two need --data); default: the model as it is, "
            "and dynamic",
            "P[,P]",
            words,
        ),
        _Flag("--labels", "labels", "text file with the names of the classes, one a line", "FILE"),
        _Flag("--max-batch", "max_batch", "rows of a batch that a device may run together", "N", count),
        _Flag("--out", "out", "where packages are written; default: ./packages", "FOLDER"),
        _Flag("--order", "order", "precisions, best first; default: fastest, then smallest", "P[,P]", words),
    ),
    "the model": (
        _Flag("--weights", "weights", "the state dict for package.module:factory", "FILE"),
        _Flag("--import-from", "import_from", "where package.module is; default: here", "FOLDER"),
        _Flag(
            "--trust-pickle",
            "trust_pickle",
            "load a .joblib, a pickled module or a Lambda layer, which can run any code: for your own files",
            constant=True,
        ),
    ),
    "data": (
        _Flag("--data", "data.path", "samples to calibrate, evaluate and fine-tune with; see below", "DATA"),
        _Flag("--evaluation-data", "data.evaluation", "evaluate with these; default: a part of DATA", "DATA"),
        _Flag(
            "--samples",
            "generate.samples",
            f"how many to generate without data (default: {GENERATED})",
            "N",
            count,
        ),
        _Flag(
            "--metric",
            "evaluate.metric",
            "accuracy, top-k, f1, mae, rmse, agreement or package.module:function; default: accuracy for class "
            "numbers, mae for other labels, agreement without any",
            "M",
        ),
    ),
    "quantization": (
        _Flag(
            "--calibration",
            "quantize.calibration",
            "how int8's ranges follow from the samples (default: minmax)",
            choices=("minmax", "entropy", "percentile"),
        ),
        _Flag(
            "--per-tensor",
            "quantize.per_channel",
            "one scale for each weight, not for each of its channels",
            constant=False,
        ),
        _Flag(
            "--io",
            "quantize.io",
            "datatype of the int8 variant's in- and outputs (default: float)",
            choices=("float", "int8", "uint8"),
        ),
        _Flag(
            "--exclude",
            "quantize.exclude",
            "layers that stay in float, as inspect names them; * and ? stand for any letters",
            "L[,L]",
            words,
        ),
        _Flag(
            "--search",
            "quantize.search",
            "if the drop is too large, find the layers that cost it and keep those in float",
            constant=True,
        ),
    ),
    "pruning": (
        _Flag(
            "--prune",
            "prune.final_sparsity",
            "fine-tune on the data and make this share of the weights zero, as 0.8; Keras and PyTorch only",
            "SHARE",
            float,
        ),
        _Flag(
            "--prune-method",
            "prune.method",
            "single weights (the default): less to download; or whole channels: a smaller and faster graph",
            choices=("magnitude", "channels"),
        ),
        _Flag("--prune-steps", "prune.end_step", "training steps until SHARE is reached (1000)", "N", count),
    ),
    "limits of a variant": (
        _Flag(
            "--max-drop",
            "gate.max_drop",
            f"most points lost, of 100 for shares such as accuracy (default: {DEFAULT_MAX_DROP})",
            "POINTS",
            non_negative,
        ),
        _Flag("--max-size", "gate.max_size_bytes", "largest file in bytes", "BYTES", count),
        _Flag("--max-latency-ms", "gate.max_latency_ms", "slowest median run on this host", "MS", non_negative),
        _Flag(
            "--min-agreement",
            "gate.min_agreement",
            "least share of answers that are the float model's, 0 to 1",
            "SHARE",
            non_negative,
        ),
    ),
}


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "build", "convert a model and package what is good enough", EXAMPLES)
    parser.add_argument(
        "model",
        metavar="RECIPE|MODEL",
        help="a recipe (.toml); or an ONNX, TFLite, .keras, .h5, .pt2 or .joblib file, a SavedModel folder, or "
        "package.module:factory",
    )
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def add_settings(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Add the flags that set a recipe's keys, but for those that are named."""
    for title, flags in _FLAGS.items():
        wanted = [flag for flag in flags if flag.option not in without]
        if not wanted:
            continue
        group = parser.add_argument_group(title)
        for flag in wanted:
            _add_flag(group, flag)
        if title == "data":
            _add_generated(group)


def recipe_of(args: argparse.Namespace, model: str) -> Recipe:
    """Return the recipe that a file or a model and the flags make; raises RequestError for what cannot be."""
    is_file = model.endswith(".toml")
    content = recipe.read_content(Path(model)) if is_file else {"model": model}
    source = model if is_file else COMMAND_LINE
    return overruled(content, args, source)


def overruled(content: Mapping[str, Any], args: argparse.Namespace, source: str = COMMAND_LINE) -> Recipe:
    """Return the recipe that a file's content and the flags make; raises RequestError, which names `source`."""
    return recipe.parse(recipe.merged(content, _settings(args)), source)


def run(args: argparse.Namespace) -> int:
    """Build, and show what came of it."""
    wanted = recipe_of(args, args.model)
    with show.progress_bar(sys.stderr) as progress:
        package = build(wanted, progress=progress)
    if args.json:
        print_json(package.as_json())
    else:
        show.show_package(package, sys.stdout)
    return 0


def _add_flag(group: argparse._ArgumentGroup, flag: _Flag) -> None:
    common: dict[str, Any] = {"dest": flag.key, "default": None, "help": flag.help}
    if flag.constant is not None:
        group.add_argument(flag.option, action="store_const", const=flag.constant, **common)
    else:
        group.add_argument(flag.option, type=flag.read, choices=flag.choices, metavar=flag.metavar, **common)


def _add_generated(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--range",
        dest="generate.ranges",
        type=value_range,
        action="append",
        metavar="NAME=LOW:HIGH",
        help="values to generate for an input without data (default: floats 0:1, integers 0:255)",
    )
    group.add_argument(
        "--shape",
        dest="generate.shapes",
        type=shape,
        action="append",
        metavar="NAME=1,3,48,320",
        help="shape to generate where dimensions are free, and of PyTorch's example inputs",
    )


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the flags say, as a recipe's content."""
    found: dict[str, Any] = {}
    for key, value in vars(args).items():
        section, dot, name = key.rpartition(".")
        known = dot or any(flag.key == key for flags in _FLAGS.values() for flag in flags)
        if value is None or not known:
            continue
        plain = dict(value) if key in ("generate.ranges", "generate.shapes") else value
        (found.setdefault(section, {}) if dot else found)[name] = plain
    return found
