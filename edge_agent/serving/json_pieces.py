"""Large tensors in JSON, decoded and encoded piece by piece.

The decoder holds Python's lock for as long as a call takes: 30 ms for 12 MB, in which no other thread gets on;
the encoder as well. Pieces of 64 KiB take 0.2 ms each, and less in all, since their lists of numbers stay in
the CPU's cache.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

LARGE_BYTES: Final = 256 * 1024
"""What JSON is large: smaller takes about as long to decode as to hand it to another thread."""
PIECE_BYTES: Final = 64 * 1024
LARGE_COUNT: Final = 16 * 1024
"""How many numbers are a large tensor: about 256 KiB of JSON."""
PIECE_COUNT: Final = 4 * 1024
KINDS: Final = "biuf"
"""The kinds of numpy's datatypes that are encoded in pieces: all but text."""

_BRACKETS: Final = b"[]"
_NUMBERS: Final = b"0123456789+-.eE \t\r\n"

Decode = Callable[[bytes], NDArray[Any]]


class PieceError(ValueError):
    """A piece cannot be decoded; says why, and where in the tensor."""


def decode(
    text: memoryview, shape: Sequence[int], decode_piece: Decode, pause: Callable[[], None] | None
) -> NDArray[Any] | None:
    """Return the numbers of a JSON list, flat; None where it is to be decoded as a whole, or is wrong.

    `shape` is what its nesting must be. `text` must be valid JSON, as it is once a request has been read around
    it. `decode_piece` makes an array of the text of a flat list; `pause` is called between pieces. Raises
    PieceError for elements that are not as the tensor's must be.
    """
    if not text.nbytes or text[0] != ord("[") or text[-1] != ord("]"):
        return None
    is_flat = len(shape) == 1
    parts: list[NDArray[Any]] = []
    structure: list[bytes] = []
    count = 0
    for piece in _pieces(text[1:-1]):
        if piece is None:
            return None
        if not is_flat:
            structure.append(piece.translate(None, _NUMBERS))
            piece = piece.translate(None, _BRACKETS)
        try:
            parts.append(decode_piece(b"[%b]" % piece))
        except msgspec.MsgspecError as error:
            what = str(error).partition(" - at ")[0].partition(" (byte")[0]
            raise PieceError(f"{what}, at or after element {count}") from error
        count += parts[-1].size
        if pause is not None:
            pause()
    if not is_flat and not _is_nested(b"[%b]" % b",".join(structure), shape):
        return None
    tensor: NDArray[Any] = np.concatenate(parts)
    return tensor


def encode(tensor: NDArray[Any], pause: Callable[[], None] | None) -> msgspec.Raw:
    """Return the numbers of a tensor as a flat JSON list; `pause` is called between pieces."""
    flat = tensor.ravel()
    parts: list[bytes] = []
    for first in range(0, flat.size, PIECE_COUNT):
        piece = msgspec.json.encode(flat[first : first + PIECE_COUNT].tolist())
        parts += (b"," if first else b"[", piece[1:-1])
        if pause is not None:
            pause()
    return msgspec.Raw(b"".join((*parts, b"]")))


def _pieces(text: memoryview) -> Iterator[bytes | None]:
    """Yield the text between commas about a piece apart; None where there is no comma for so long."""
    first = 0
    while first < len(text):
        piece = bytes(text[first : first + PIECE_BYTES])
        if first + PIECE_BYTES < len(text):
            cut = piece.rfind(b",")
            if cut < 0:
                yield None
                return
            piece = piece[:cut]
        yield piece
        first += len(piece) + 1


def _is_nested(structure: bytes, shape: Sequence[int]) -> bool:
    """Say whether brackets and commas are those of a list nested as the shape; its length is compared first."""
    length = shape[-1] + 1
    for size in reversed(shape[:-1]):
        length = size * (length + 1) + 1
    if len(structure) != length:
        return False
    rows = b"[%b]" % (b"," * (shape[-1] - 1))
    for size in reversed(shape[:-1]):
        rows = b"[%b]" % b",".join([rows] * size)
    return structure == rows
