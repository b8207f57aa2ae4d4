"""The command `edge-convert sweep`: thin over `converters.sweep.runner`."""

import argparse
import sys
from pathlib import Path
from typing import Final

from converters.commands import arguments, build, show
from converters.commands.show_sweep import show_sweep, show_trials
from converters.conversion.recipe import Recipe, read_content
from converters.quantize.variants import OFFERED
from converters.sweep import runner
from converters.sweep.plot import check, write_plot
from converters.sweep.results import Sweep
from edge_agent.documents.errors import EdgeAgentError, RequestError

_EXAMPLES: Final = """\
examples:
  edge-convert sweep model.onnx --data samples.npz --list
      what would be tried
  edge-convert sweep small.onnx large.onnx --data samples.npz --plot sweep.html
      both models with every recipe that they allow, and the front of accuracy, size and latency
  edge-convert sweep model.onnx --data samples.npz --pick "drop<=0.5pt, size<=2MB, fastest"
      packages the fastest of those that lose at most half a point and travel in 2 MB
  edge-convert sweep --recipe recipe.toml --prune 0.5,0.8 --jobs 4
      what the recipe leaves open, also pruned to 50 and 80 %

a pick: constraints on drop (pt), size (B, kB, MB), latency (ms) and agreement (%) with <= or >=, then one of
fastest, smallest, most-accurate
"""

_TRIED: Final = (
    "--precision", "--order", "--calibration", "--per-tensor", "--search", "--prune",
    "--max-drop", "--max-size", "--max-latency-ms", "--min-agreement",
)  # fmt: skip
"""What means something else to a build than to a sweep, which tries it all or limits it by its pick."""


def add(commands: arguments.Commands) -> None:
    """Add the command to the program's parser."""
    summary = "try the sensible recipes for one or several models and show which are worth having"
    parser = arguments.add_command(commands, "sweep", summary, _EXAMPLES)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models that take the same data")
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE.toml", help="a recipe: data, labels, metric, and what to keep to"
    )
    _add_search(parser)
    build.add_settings(parser, without=_TRIED)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw accuracy against size and latency into FILE, .svg or .html",
    )
    parser.set_defaults(run=run)


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prune",
        dest="shares",
        type=arguments.shares,
        default=(),
        metavar="S[,S]",
        help="shares of pruned weights to try too, as 0.5,0.8; Keras and PyTorch only",
    )
    parser.add_argument(
        "--precision",
        type=arguments.words,
        metavar="P[,P]",
        help=f"what to try among {', '.join(OFFERED)} (the last two need --data); default: all",
    )
    parser.add_argument(
        "--pick", metavar="PICK", help="package the best result, as 'drop<=0.5pt, fastest'; see below"
    )
    parser.add_argument(
        "--jobs", type=arguments.count, metavar="N", help="trials at a time; default: one a core"
    )
    parser.add_argument(
        "--backend", metavar="NAME", help="joblib's: loky (the default), threading, or one that is registered"
    )
    parser.add_argument(
        "--list", "--dry-run", dest="list", action="store_true", help="show what would be tried, and stop"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command and return the exit code."""
    recipe = _recipe(args)
    models = args.models or ([recipe.model] if recipe.model else [])
    if not models:
        raise RequestError("No model was given; name one or several, or a recipe that has one.")
    if args.list:
        planned = runner.plan(models, recipe, prune=args.shares, pick=args.pick)
        if args.json:
            arguments.print_json([{"model": trial.model, "trial": trial.name} for trial in planned])
        else:
            show_trials(planned, sys.stdout)
        return 0
    if args.plot is not None:
        check(args.plot)
    with show.progress_bar(sys.stderr) as progress:
        found = runner.sweep(
            models,
            recipe,
            prune=args.shares,
            pick=args.pick,
            jobs=args.jobs,
            backend=args.backend,
            progress=progress,
        )
    return _tell(found, args)


def _tell(found: Sweep, args: argparse.Namespace) -> int:
    """Print what was found, and only then say what did not come of it; return the exit code."""
    if args.json:
        arguments.print_json(found.as_json())
    else:
        show_sweep(found, sys.stdout)
    code, failures = 0, []
    if args.plot is not None:
        try:
            write_plot(found, args.plot)
        except EdgeAgentError as error:
            code, failures = error.exit_code, [str(error)]
    if found.unmet:
        code, failures = 2, [*failures, found.unmet]
    # Raised, it would be a second document on standard output with --json.
    sys.stdout.flush()
    sys.stderr.writelines(f"{arguments.PROGRAM}: {failure}\n" for failure in failures)
    return code


def _recipe(args: argparse.Namespace) -> Recipe:
    """Return the recipe's file, if there is one, overruled by the options; raises RequestError."""
    if args.recipe is None:
        return build.overruled({}, args)
    return build.overruled(read_content(args.recipe), args, str(args.recipe))
