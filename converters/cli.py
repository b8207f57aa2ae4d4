"""The command line `edge-convert`: thin over `converters.convert` and `converters.inspection`.

Exit codes: 0 done, 1 a mistake of this program, 2 the caller must change something, 130 interrupted by Ctrl-C.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import NoReturn

from converters import show
from converters.build import convert
from converters.checks.gate import DEFAULT_MAX_DROP
from converters.commands import arguments, sweep
from converters.data import sampling
from converters.errors import missing
from converters.inspection import find_manifest, inspect_model
from converters.quantize.variants import OFFERED
from converters.workers.trials import Bench
from edge_agent import __version__
from edge_agent.documents.errors import EdgeAgentError, unexpected

PROGRAM = "edge-convert"
INTERRUPTED = 130
TERMINATED = 143
READER_GONE = 141
"""As the shell reports a program that SIGPIPE ended."""

_BUILD_EXAMPLES = """\
examples:
  edge-convert build model.onnx
      the model as it is and a dynamic variant, checked and packaged under packages/model/<UTC time>/
  edge-convert build model.onnx --precision int8,fp32 --data samples.npz --labels labels.txt
      static int8, calibrated with half of the samples and evaluated with the other half
  edge-convert build magika.onnx --range bytes=0:256 --version 1.2.0
      says what integers to generate for the input 'bytes' where no data is given
  edge-convert build model.tflite --precision fp16 --max-drop 0.5 --json
      a float16 variant that may lose half a point, and the result as JSON

data: an .npz with one array per input, samples along axis 0, and optionally class numbers in 'y':
  numpy.savez("samples.npz", image=images, y=classes)
"""

_INSPECT_EXAMPLES = """\
examples:
  edge-convert inspect model.tflite
  edge-convert inspect packages/model/20261122_101500 --json
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that leads to the right help."""

    def error(self, message: str) -> NoReturn:
        """Write one sentence and leave with exit code 2."""
        self.exit(2, f"{PROGRAM}: {message}; see '{self.prog} --help'.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = build_parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = int(args.run(args))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{PROGRAM}: interrupted; nothing was written.\n")
        return INTERRUPTED
    except EdgeAgentError as error:
        return _failed(str(error), error.exit_code, args)
    except Exception as error:
        return _failed(unexpected(error), 1, args)
    finally:
        signal.signal(signal.SIGTERM, before)
    return code


def _failed(message: str, exit_code: int, args: argparse.Namespace) -> int:
    if args.debug:
        traceback.print_exc()
    sys.stderr.write(f"{PROGRAM}: {message}\n")
    if getattr(args, "json", False):
        _print_json({"error": message, "exit_code": exit_code})
    return exit_code


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(prog=PROGRAM, description="Convert, quantize, check and package models for edge devices.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_build(commands)
    sweep.add(commands)
    inspect = _command(commands, "inspect", "show what a model or a package is", _INSPECT_EXAMPLES)
    inspect.add_argument(
        "path", type=Path, metavar="PATH", help="an .onnx or .tflite file, or a package's folder"
    )
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(run=_inspect)
    completion = _command(
        commands,
        "completion",
        "print a completion script",
        f'example:\n  eval "$({PROGRAM} completion bash)"\n',
    )
    completion.add_argument("shell", choices=("bash", "zsh"))
    completion.set_defaults(run=_completion)
    return parser


def _add_build(commands: "argparse._SubParsersAction[Parser]") -> None:
    build = _command(commands, "build", "convert a model and package what is good enough", _BUILD_EXAMPLES)
    build.add_argument(
        "model", type=Path, metavar="MODEL", help="an ONNX or TFLite file, told apart by content"
    )
    build.add_argument("--name", help="default: the file's name")
    build.add_argument("--version", help="default: UTC time as YYYYmmdd_HHMMSS")
    build.add_argument(
        "--precision",
        type=arguments.words,
        metavar="P[,P]",
        help=f"among {', '.join(OFFERED)}; default: the model as it is, and dynamic",
    )
    build.add_argument("--data", type=Path, metavar="FILE.npz", help="samples to calibrate and evaluate with")
    build.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line")
    build.add_argument(
        "--out", type=Path, default=Path("packages"), metavar="FOLDER", help="default: ./packages"
    )
    build.add_argument(
        "--max-drop",
        type=arguments.non_negative,
        default=DEFAULT_MAX_DROP,
        metavar="POINTS",
        help="accuracy, or agreement without labels, that a variant may lose (default: %(default)s)",
    )
    build.add_argument("--max-size", type=arguments.count, metavar="BYTES", help="largest file of a variant")
    build.add_argument(
        "--max-latency-ms", type=arguments.non_negative, metavar="MS", help="slowest median run on this host"
    )
    build.add_argument(
        "--order",
        type=arguments.words,
        metavar="P[,P]",
        help="precisions, best first; default: fastest, then smallest",
    )
    build.add_argument(
        "--range",
        type=arguments.value_range,
        action="append",
        default=[],
        metavar="NAME=LOW:HIGH",
        help="values to generate for an input without --data (default: floats 0:1, integers 0:255)",
    )
    build.add_argument(
        "--shape",
        type=arguments.shape,
        action="append",
        default=[],
        metavar="NAME=1,3,48,320",
        help="shape to generate where dimensions are free (default: 1 for the first, "
        f"{sampling.FREE_DIMENSION} for others)",
    )
    build.add_argument(
        "--samples",
        type=arguments.count,
        default=sampling.GENERATED,
        metavar="N",
        help="how many to generate without --data (default: %(default)s)",
    )
    build.add_argument("--json", action="store_true", help="print the result as JSON")
    build.set_defaults(run=_build)


def _command(
    commands: "argparse._SubParsersAction[Parser]", name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="on an error, show where in the program it arose")
    return parser


def _build(args: argparse.Namespace) -> int:
    with show.progress_bar(sys.stderr) as progress:
        package = convert(
            args.model,
            name=args.name,
            version=args.version,
            precisions=args.precision,
            data=args.data,
            labels=args.labels,
            out=args.out,
            max_drop=args.max_drop,
            max_size_bytes=args.max_size,
            max_latency_ms=args.max_latency_ms,
            order=args.order,
            ranges=dict(args.range),
            shapes=dict(args.shape),
            samples=args.samples,
            progress=progress,
        )
    if args.json:
        _print_json(package.as_json())
    else:
        show.show_package(package, sys.stdout)
    return 0


def _inspect(args: argparse.Namespace) -> int:
    manifest = find_manifest(args.path)
    if manifest is not None:
        if args.json:
            _print_json(manifest.model_dump(mode="json", by_alias=True))
        else:
            show.show_manifest(manifest, sys.stdout)
        return 0
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder, ExitStack() as stack:
        model = inspect_model(args.path, Bench(Path(folder), stack))
    if args.json:
        _print_json(model.as_json())
    else:
        show.show_model(model, sys.stdout)
    return 0


def _completion(args: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError as error:
        raise missing("shtab") from error
    sys.stdout.write(shtab.complete(build_parser(), args.shell) + "\n")
    return 0


def _print_json(content: object) -> None:
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    # As an exception, so that temporary folders and workers go as they do on Ctrl-C.
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
