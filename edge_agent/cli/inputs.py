"""Reads a model's inputs: arrays, JSON, an image, a sound or text, told apart by what a file holds."""

import io
import json
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_agent.cli import images, sounds
from edge_agent.cli.arrays import Array, fitted
from edge_agent.cli.file_kinds import HEAD_BYTES, kind_of
from edge_agent.documents.errors import NotFoundError, OperatorError, RequestError
from edge_agent.documents.tensors import TensorSpec

STDIN: Final = Path("-")
_TEXT_SUFFIXES: Final = (".txt", ".text", ".md")


def read_inputs(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Read a model's inputs from a file, or from standard input for `-`.

    .npy and .npz; an image or a .wav file for an only input that takes pixels or samples; text for one of
    BYTES; else JSON: a request of the Open Inference Protocol, an object of nested lists by input name, or the
    nested list of the only input. Raises RequestError for what does not fit the inputs.
    """
    content = _read(path)
    name = "Standard input" if path == STDIN else path.name
    match kind_of(content[:HEAD_BYTES]):
        case "image":
            spec = _only(specs, "an image")
            return {spec.name: images.decoded(content, spec, name)}
        case "wav":
            spec = _only(specs, "a sound")
            return {spec.name: sounds.samples(content, spec, name)}
        case "npy" | "npz":
            given = _arrays(content, path)
        case "other":
            given = _json_or_text(content, path, specs)
    return {name: fitted(value, _spec(name, specs)) for name, value in _by_name(given, specs).items()}


def text_inputs(texts: Sequence[str], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return texts as the tensor of the only input, one element each; raises RequestError if it takes none."""
    spec = _only(specs, "text")
    if spec.datatype != "BYTES":
        raise RequestError(
            f"Input '{spec.name}' takes {spec.datatype} {list(spec.shape)}, not text; give an .npy file as the "
            "model takes it, or have the steps from text to numbers in its graph."
        )
    shape = (len(texts), *[1] * (len(spec.shape) - 1)) if spec.shape else ()
    if not spec.accepts(shape) or (not shape and len(texts) != 1):
        raise RequestError(
            f"Input '{spec.name}' takes BYTES of the shape {list(spec.shape)} (-1 is free), which {len(texts)} "
            "of text cannot fill; give them as JSON."
        )
    return {spec.name: np.array([text.encode() for text in texts], dtype=np.object_).reshape(shape)}


def opened(path: Path) -> io.BufferedReader:
    """Open a file for reading; raises NotFoundError or OperatorError where that cannot be."""
    try:
        # Whoever calls closes it.
        return path.open("rb")
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no file {path}; check the path.") from error
    except OSError as error:
        raise OperatorError(f"Cannot read {path}: {error.strerror}.") from error


def _read(path: Path) -> bytes:
    try:
        if path == STDIN:
            return sys.stdin.buffer.read()
        with opened(path) as file:
            return file.read()
    except OSError as error:
        raise OperatorError(f"Cannot read {path}: {error.strerror}.") from error


def _arrays(content: bytes, path: Path) -> Any:
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return dict(found)
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(path, error) from error


def _json_or_text(content: bytes, path: Path, specs: Sequence[TensorSpec]) -> Any:
    """Return what a file says as JSON; as text where the model takes text and it is none, or named so."""
    takes_text = len(specs) == 1 and specs[0].datatype == "BYTES"
    if not (takes_text and path.suffix.lower() in _TEXT_SUFFIXES):
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            if not takes_text:
                raise _unreadable(path, error) from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is neither JSON nor text in UTF-8: {error}.") from error
    # A text file ends in a newline that is not part of what it says.
    return text_inputs([text.removesuffix("\n").removesuffix("\r")], specs)


def _unreadable(path: Path, error: Exception) -> RequestError:
    return RequestError(
        f"{path} holds neither .npy, .npz nor JSON, an image, a .wav file or text for a model that takes it: "
        f"{' '.join(str(error).split()).rstrip('.')}."
    )


def _only(specs: Sequence[TensorSpec], what: str) -> TensorSpec:
    if len(specs) == 1:
        return specs[0]
    names = ", ".join(spec.name for spec in specs)
    raise RequestError(
        f"The model has several inputs ({names}), so {what} does not say for which it is; name them in an .npz "
        "or a JSON object."
    )


def _by_name(given: Any, specs: Sequence[TensorSpec]) -> Mapping[str, Any]:
    if isinstance(given, dict) and isinstance(given.get("inputs"), list):
        return dict(_protocol_input(item) for item in given["inputs"])
    if isinstance(given, dict):
        return given
    if len(specs) == 1:
        return {specs[0].name: given}
    names = ", ".join(spec.name for spec in specs)
    raise RequestError(f"The model has several inputs ({names}); name them in an .npz or a JSON object.")


def _protocol_input(item: Any) -> tuple[str, Any]:
    try:
        return item["name"], np.asarray(item["data"]).reshape(item["shape"])
    except (LookupError, TypeError, ValueError) as error:
        raise RequestError(f"An input of the request has no name, shape or fitting data: {error}.") from error


def _spec(name: str, specs: Sequence[TensorSpec]) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    raise RequestError(f"The model has no input '{name}'; it has {', '.join(spec.name for spec in specs)}.")
