"""`edge-agent infer`: requests to a model, through the client that apps use."""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_agent.cli.arrays import Array, Score, as_json, best, output_lines
from edge_agent.cli.inputs import STDIN, read_inputs, text_inputs
from edge_agent.cli.options import positive
from edge_agent.cli.output import Output, Progress, size
from edge_agent.cli.saving import OutputFiles
from edge_agent.cli.slicing import MAX_WHOLE_BYTES, Slicing, plan
from edge_agent.cli.sockets import add_socket, infer_socket
from edge_agent.cli.streaming import MappedArray, Stream, Streamed, mapped
from edge_agent.client import Client, InferResult, ModelMetadata
from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import TensorSpec
from edge_agent.engines.blank import zeros

DESCRIPTION = """\
Send one inference request and print the answer. Inputs come from an .npy or .npz file, from JSON (a request of
the Open Inference Protocol, an object of nested lists by input name, or the list for the only input), from an
image, a .wav file or text. What a file is, is told from its content.

An .npy file of any size is sent in slices along its first dimension, in little memory, where the model takes
any number of rows, or one row at a time; --save then writes the outputs as they come. Images become UINT8
pixels (with Pillow: pip install pillow), .wav files INT16 samples or floats from -1 to 1, text BYTES: all that
comes between them and the network belongs into the model's graph, as 'edge-convert build' writes it."""

EXAMPLES = """\
  edge-agent infer magika --zeros
  edge-agent infer magika --input tokens.npy --top 3
  echo '[[1.0, 2.0, 3.0]]' | edge-agent infer scorer --input -
  edge-agent infer scorer --input rows.npz --json
  edge-agent infer detector --input street.jpg --save boxes/
  edge-agent infer keywords --input yes.wav --top 3
  edge-agent infer sentiment --text 'What a day!'
  edge-agent infer scorer --input two-gigabytes.npy --save scores.npy
"""

Tops = dict[str, list[list[Score]]]
"""By output name and row: its best classes."""

TOP = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", type=Path, metavar="FILE", help=".npy, .npz, JSON, image, .wav or text; - is standard input"
    )
    source.add_argument("--text", action="append", metavar="STR", help="send this text; may be repeated")
    source.add_argument("--zeros", action="store_true", help="send zeros in the model's shapes")
    parser.add_argument("--version", metavar="VERSION", help="ask this version (default: as the agent routes)")
    parser.add_argument(
        "--output", action="append", metavar="NAME", help="want this output alone; may be repeated"
    )
    parser.add_argument("--top", type=positive, metavar="K", help=f"show the K best classes (default: {TOP})")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="PATH",
        help="write the outputs: an only one to FILE.npy, else into a folder",
    )
    parser.add_argument(
        "--rows",
        type=positive,
        metavar="N",
        help="send an .npy file in slices of N rows (default: about 1 MiB)",
    )
    add_socket(parser)
    parser.add_argument("--url", help="ask over TCP, for example http://127.0.0.1:8000")


def run(args: argparse.Namespace) -> int:
    """Ask the model and print its answer."""
    output = Output(args.json)
    with Client(args.url or str(infer_socket(args))) as client:
        metadata = client.metadata(args.model, args.version)
        wanted = _wanted(metadata, args.output)
        if (found := _large(args, metadata, wanted)) is not None:
            return _run_sliced(args, client, output, metadata.inputs[0], *found)
        tensors = _tensors(args, metadata)
        started_s = time.perf_counter()
        result = client.infer(args.model, tensors, version=args.version, outputs=args.output)
        took_s = time.perf_counter() - started_s
    saved = _save(result.outputs, args.save)
    labels = tuple(metadata.parameters.get("labels") or ())
    tops = {
        name: best(array, args.top or TOP, labels)
        for name, array in result.outputs.items()
        if is_classes(array, labels, is_wanted=args.top is not None)
    }
    if saved:
        output.show(_as_json(result, tops, took_s, saved), lambda: saved_lines(result, saved, took_s, output))
    else:
        output.show(_as_json(result, tops, took_s, {}), lambda: lines(result, tops, took_s, output))
    return 0


def is_classes(array: Array, labels: tuple[str, ...], is_wanted: bool) -> bool:
    """Say whether an output is one score for each class: as many as there are labels, or the caller says so."""
    if array.ndim == 0 or array.size == 0 or array.dtype.kind not in "iuf":
        return False
    return is_wanted or (len(labels) > 1 and array.shape[-1] == len(labels))


def lines(result: InferResult, tops: Tops, took_s: float, output: Output) -> Iterator[str]:
    """Yield the answer for a person."""
    yield _title(result.model_name, result.model_version, output) + f"  {took_s * 1e3:.1f} ms"
    for name, array in result.outputs.items():
        yield from output_lines(name, array)
        for row in tops.get(name, []):
            for entry in row:
                yield f"  {entry.score:10.5f}  {entry.label or ''} [{entry.index}]"
            yield ""


def saved_lines(result: InferResult, saved: Mapping[str, Path], took_s: float, output: Output) -> Iterator[str]:
    """Yield where the outputs of one answer were written."""
    yield _title(result.model_name, result.model_version, output) + f"  {took_s * 1e3:.1f} ms"
    for name, path in saved.items():
        array = result.outputs[name]
        yield f"{next(output_lines(name, array))}  {path}"


def sliced_lines(streamed: Streamed, output: Output) -> Iterator[str]:
    """Yield what became of a large file."""
    speed = size(int(streamed.input_bytes / streamed.took_s)) if streamed.took_s else "-"
    yield (
        f"{_title(streamed.model_name, streamed.model_version, output)}  {streamed.rows} rows in "
        f"{streamed.slices} slices, {streamed.took_s:.1f} s, {speed}/s"
    )
    for one in streamed.outputs:
        numbers = "" if one.mean is None else f"  min {one.min:.5g}, mean {one.mean:.5g}, max {one.max:.5g}"
        yield f"{one.name}  {one.datatype} {list(one.shape)}{numbers}" + (f"  {one.file}" if one.file else "")
    if not any(one.file for one in streamed.outputs):
        yield "Nothing was kept; --save FILE.npy, or a folder, keeps the outputs."


def _title(model: str, version: str, output: Output) -> str:
    return output.style(f"{model} {version}", "bold")


def _wanted(metadata: ModelMetadata, names: Sequence[str] | None) -> tuple[TensorSpec, ...]:
    """Return the outputs that the caller wants; names of none are left to the agent to refuse."""
    return tuple(spec for spec in metadata.outputs if names is None or spec.name in names)


def _large(
    args: argparse.Namespace, metadata: ModelMetadata, outputs: Sequence[TensorSpec]
) -> tuple[MappedArray, Slicing] | None:
    """Return the file and its slices if it goes in slices."""
    source = mapped(args.input) if args.input is not None and args.input != STDIN else None
    if source is None or len(metadata.inputs) != 1:
        if args.rows is not None:
            raise RequestError("--rows is for an .npy file and a model with one input; leave it out.")
        return None
    array = source.array
    slicing = plan(
        array.shape,
        array.dtype.itemsize,
        metadata.inputs[0],
        outputs,
        wanted_rows=args.rows,
        max_batch=max_batch(metadata),
    )
    if slicing is not None:
        return source, slicing
    if array.nbytes > MAX_WHOLE_BYTES:
        raise RequestError(
            f"{args.input} has {size(array.nbytes)}, too much for one request, and its shape "
            f"{list(array.shape)} has no rows for the shape {list(metadata.inputs[0].shape)} that the model "
            "takes (-1 is free); give less."
        )
    return None


def max_batch(metadata: ModelMetadata) -> int | None:
    """Return the most rows that the model takes at once, if it says so."""
    found = metadata.parameters.get("max_batch")
    return found if isinstance(found, int) and found > 0 else None


def _run_sliced(
    args: argparse.Namespace,
    client: Client,
    output: Output,
    spec: TensorSpec,
    source: MappedArray,
    slicing: Slicing,
) -> int:
    stream = Stream(client, args.model, args.version, args.output, spec)
    progress = Progress(is_wanted=not args.json)
    try:
        with OutputFiles(args.save) as files:
            streamed = stream.run(source, slicing, files, progress)
    finally:
        progress.end()
    output.show(asdict(streamed), lambda: sliced_lines(streamed, output))
    return 0


def _tensors(args: argparse.Namespace, metadata: ModelMetadata) -> dict[str, Array]:
    if args.zeros:
        return zeros(metadata.inputs)
    if args.text is not None:
        return text_inputs(args.text, metadata.inputs)
    return read_inputs(args.input, metadata.inputs)


def _save(outputs: Mapping[str, Array], path: Path | None) -> dict[str, Path]:
    """Write the outputs of one answer; return the file of each."""
    with OutputFiles(path) as files:
        files.create(dict(outputs))
        files.append(dict(outputs))
        files.finish()
    return files.paths


def _as_json(result: InferResult, tops: Tops, took_s: float, saved: Mapping[str, Path]) -> dict[str, Any]:
    outputs = []
    for name, array in result.outputs.items():
        if name in saved:
            content = as_json(name, array[:0] if array.ndim else array.reshape(1)[:0])
            outputs.append(content | {"shape": list(array.shape), "data": None, "file": str(saved[name])})
        else:
            outputs.append(as_json(name, array))
    return {
        "model_name": result.model_name,
        "model_version": result.model_version,
        "id": result.id,
        "parameters": dict(result.parameters),
        "outputs": outputs,
        "top": {name: [[asdict(entry) for entry in row] for row in rows] for name, rows in tops.items()},
        "took_ms": round(took_s * 1e3, 3),
    }
