"""Whether an ONNX file keeps to itself: its tensors may be in other files, by any path, of anybody's choosing.

Older runtimes follow such a path anywhere, newer ones still to whatever lies beside the model. A version's
model is one signed file, so that there is no need for others. The file's messages are walked without the onnx
package, which no device has; large tensors are stepped over.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, https://protobuf.dev/programming-guides/encoding
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from edge_agent.documents.errors import ModelLoadError

_DEPTH: Final = 64
"""Of messages in messages, more than which no converter makes."""
_ORT_FORMAT: Final = b"ORTM"

_Messages = Mapping[int, str]
_MESSAGES: Final[Mapping[str, _Messages]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
    "external": {},
}
"""The fields of each message, by number, that hold messages with tensors in them."""
_LOCATION: Final = 14
"""`TensorProto.data_location`, 1 for another file."""


class UnreadableError(ModelLoadError):
    """The file is no ONNX model at all, or a damaged one."""


def check(path: Path) -> None:
    """Raise ModelLoadError for a file whose tensors are in other files, UnreadableError for no ONNX file."""
    with path.open("rb") as file:
        head = file.read(8)
        if head[4:] == _ORT_FORMAT:
            raise ModelLoadError("It is in ONNX Runtime's own format; package the ONNX file it was made from.")
        if not head:
            raise UnreadableError("The model file is empty.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                _walk(content, 0, len(content), "model", _DEPTH)
            except IndexError as error:
                raise UnreadableError("It is no ONNX model, or damaged: a part ends beyond the end.") from error


def _walk(content: mmap.mmap, start: int, end: int, kind: str, depth: int) -> None:
    if depth == 0:
        raise ModelLoadError(f"Its parts lie more than {_DEPTH} deep in each other; no converter makes that.")
    for number, value, begin in _fields(content, start, end):
        if kind == "tensor" and (number == 13 or (number == _LOCATION and value == 1)):
            raise ModelLoadError(
                "Its tensors are in other files (external data); save the model as one file and package that."
            )
        inner = _MESSAGES[kind].get(number)
        if inner is not None and begin is not None:
            _walk(content, begin, begin + value, inner, depth - 1)


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """Yield each field of a message: its number, its value or length, and where what has a length begins."""
    at = start
    while at < end:
        tag, at = _varint(content, at, end)
        begin, value = None, 0
        match tag & 7:
            case 0:
                value, at = _varint(content, at, end)
            case 2:
                value, begin = _varint(content, at, end)
                at = begin + value
            case 1:
                at += 8
            case 5:
                at += 4
            case _:
                raise UnreadableError("It is no ONNX model, or damaged: a part has a type that there is not.")
        if at > end:
            raise IndexError
        yield tag >> 3, value, begin


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise IndexError
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
