"""`edge-agent infer`: one request to a model, through the client that apps use."""

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_agent.cli.arrays import Array, Score, as_json, best, output_lines, read_inputs, zeros
from edge_agent.cli.options import positive
from edge_agent.cli.output import Output
from edge_agent.cli.sockets import add_socket, infer_socket
from edge_agent.client import Client, InferResult

DESCRIPTION = """\
Send one inference request and print the answer. Inputs come from an .npy or .npz file, or from JSON: a request
of the Open Inference Protocol, an object of nested lists by input name, or the list for the only input."""

EXAMPLES = """\
  edge-agent infer magika --zeros
  edge-agent infer magika --input tokens.npy --top 3
  echo '[[1.0, 2.0, 3.0]]' | edge-agent infer scorer --input -
  edge-agent infer scorer --input rows.npz --json
"""

Tops = dict[str, list[list[Score]]]
"""By output name and row: its best classes."""

TOP = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, metavar="FILE", help=".npy, .npz or JSON; - is standard input")
    source.add_argument("--zeros", action="store_true", help="send zeros in the model's shapes")
    parser.add_argument("--version", metavar="VERSION", help="ask this version (default: as the agent routes)")
    parser.add_argument(
        "--output", action="append", metavar="NAME", help="want this output alone; may be repeated"
    )
    parser.add_argument("--top", type=positive, metavar="K", help=f"show the K best classes (default: {TOP})")
    add_socket(parser)
    parser.add_argument("--url", help="ask over TCP, for example http://127.0.0.1:8000")


def run(args: argparse.Namespace) -> int:
    """Ask the model and print its answer."""
    output = Output(args.json)
    with Client(args.url or str(infer_socket(args))) as client:
        metadata = client.metadata(args.model, args.version)
        tensors = zeros(metadata.inputs) if args.zeros else read_inputs(args.input, metadata.inputs)
        started_s = time.perf_counter()
        result = client.infer(args.model, tensors, version=args.version, outputs=args.output)
        took_s = time.perf_counter() - started_s
    labels = tuple(metadata.parameters.get("labels") or ())
    tops = {
        name: best(array, args.top or TOP, labels)
        for name, array in result.outputs.items()
        if is_classes(array, labels, is_wanted=args.top is not None)
    }
    output.show(_as_json(result, tops, took_s), lambda: lines(result, tops, took_s, output))
    return 0


def is_classes(array: Array, labels: tuple[str, ...], is_wanted: bool) -> bool:
    """Say whether an output is one score for each class: as many as there are labels, or the caller says so."""
    if array.ndim == 0 or array.size == 0 or array.dtype.kind not in "iuf":
        return False
    return is_wanted or (len(labels) > 1 and array.shape[-1] == len(labels))


def lines(result: InferResult, tops: Tops, took_s: float, output: Output) -> Iterator[str]:
    """Yield the answer for a person."""
    yield output.style(f"{result.model_name} {result.model_version}", "bold") + f"  {took_s * 1e3:.1f} ms"
    for name, array in result.outputs.items():
        yield from output_lines(name, array)
        for row in tops.get(name, []):
            for entry in row:
                yield f"  {entry.score:10.5f}  {entry.label or ''} [{entry.index}]"
            yield ""


def _as_json(result: InferResult, tops: Tops, took_s: float) -> dict[str, Any]:
    return {
        "model_name": result.model_name,
        "model_version": result.model_version,
        "id": result.id,
        "parameters": dict(result.parameters),
        "outputs": [as_json(name, array) for name, array in result.outputs.items()],
        "top": {name: [[asdict(entry) for entry in row] for row in rows] for name, rows in tops.items()},
        "took_ms": round(took_s * 1e3, 3),
    }
