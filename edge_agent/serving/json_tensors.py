"""Tensors in JSON: lists of numbers, booleans or strings, flat or nested as the shape is."""

import math
import re
from collections.abc import Callable
from functools import cache
from types import GenericAlias
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import NUMPY_NAME, WITHOUT_JSON, TensorSpec
from edge_agent.serving import json_pieces

_DEPTH: Final = re.compile(rb"[\[\s]*")

_ELEMENTS: Final[dict[str, Any]] = {
    "BOOL": bool,
    **{
        f"UINT{bits}": Annotated[int, msgspec.Meta(ge=0, le=2**bits - 1)] for bits in (8, 16, 32)
    },
    **{
        f"INT{bits}": Annotated[int, msgspec.Meta(ge=-(2 ** (bits - 1)), le=2 ** (bits - 1) - 1)]
        for bits in (8, 16, 32, 64)
    },
    # The upper bound does not fit msgspec's; numpy refuses what is larger.
    "UINT64": Annotated[int, msgspec.Meta(ge=0)],
    "FP32": float,
    "FP64": float,
    "BYTES": str,
}  # fmt: skip
"""What each datatype's elements are in JSON; FP16 and BF16 have no form there."""


def decode(
    data: msgspec.Raw, spec: TensorSpec, shape: tuple[int, ...], pause: Callable[[], None] | None = None
) -> NDArray[Any]:
    """Return the tensor of this shape that the JSON text holds, BYTES as an object array of bytes.

    The text must be valid JSON. Where it is large `pause` is called now and then. Raises RequestError when it
    is not a list, flat or nested as the shape, of elements of the spec's datatype.
    """
    name, datatype = spec.name, spec.datatype
    if datatype in WITHOUT_JSON:
        raise RequestError(f"Input '{name}' is {datatype}, which JSON has no form for; send it as binary data.")
    text = memoryview(data)
    depth = _DEPTH.match(text).group().count(b"[")  # type: ignore[union-attr]
    if depth not in (1, len(shape)):
        raise RequestError(f"The data of input '{name}' must be a flat list, or nested as its shape is.")
    try:
        tensor = None
        if len(text) >= json_pieces.LARGE_BYTES:
            tensor = _in_pieces(text, datatype, shape, depth, pause)
        if tensor is None:
            tensor = _to_array(_decoder(datatype, depth).decode(text), datatype, depth)
    except (msgspec.MsgspecError, json_pieces.PieceError, UnicodeDecodeError, OverflowError) as error:
        raise RequestError(f"The data of input '{name}' cannot be {datatype}: {error}.") from error
    except ValueError as error:
        raise RequestError(f"The data of input '{name}' has rows of different lengths.") from error
    if tensor.size != math.prod(shape) or (depth > 1 and tensor.shape != shape):
        raise RequestError(
            f"The data of input '{name}' has shape {list(tensor.shape)}, its shape is given as {list(shape)}."
        )
    if datatype in ("FP32", "FP64") and not np.isfinite(tensor).all():
        raise RequestError(f"The data of input '{name}' has a number that is too large for {datatype}.")
    return tensor.reshape(shape)


def encode(tensor: NDArray[Any], name: str, pause: Callable[[], None] | None = None) -> list[Any] | msgspec.Raw:
    """Return the elements of an output in row-major order, ready to be written as JSON.

    Where there are many numbers `pause` is called now and then. Raises RequestError where JSON cannot carry
    them: NaN and infinities have no form in it (RFC 8259), and to write null, or text, would hand a client a
    number that is none. Binary data carry them.
    """
    check_finite(tensor, name)
    if tensor.size >= json_pieces.LARGE_COUNT and tensor.dtype.kind in json_pieces.KINDS:
        return json_pieces.encode(tensor, pause)
    elements: list[Any] = tensor.ravel().tolist()
    if tensor.dtype != np.object_:
        return elements
    try:
        return [item.decode() for item in elements]
    except UnicodeDecodeError as error:
        raise RequestError(
            f"Output '{name}' has bytes that are not UTF-8, which JSON cannot carry; ask for binary_data."
        ) from error


def check_finite(tensor: NDArray[Any], name: str) -> None:
    """Raise RequestError if an output has NaN or infinity."""
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise RequestError(
            f"Output '{name}' has NaN or infinity, which JSON cannot carry; ask for binary_data."
        )


def _in_pieces(
    text: memoryview, datatype: str, shape: tuple[int, ...], depth: int, pause: Callable[[], None] | None
) -> NDArray[Any] | None:
    if datatype in ("BYTES", "BOOL"):
        return None
    decoder = _decoder(datatype, 1)

    def decode_piece(piece: bytes) -> NDArray[Any]:
        return _to_array(decoder.decode(piece), datatype, 1)

    tensor = json_pieces.decode(text, shape if depth > 1 else (1,), decode_piece, pause)
    return tensor.reshape(shape) if tensor is not None and depth > 1 else tensor


@cache
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    kind = _ELEMENTS[datatype]
    for _ in range(depth):
        kind = GenericAlias(list, (kind,))
    return msgspec.json.Decoder(kind)


def _to_array(values: Any, datatype: str, depth: int) -> NDArray[Any]:
    if datatype == "FP32":
        # What is too large for it becomes infinite, without a warning, and is refused afterwards.
        with np.errstate(over="ignore"):
            return np.array(values, np.float32)
    if datatype != "BYTES":
        return np.array(values, NUMPY_NAME[datatype])
    text: NDArray[Any] = np.array(values, np.object_)
    if text.ndim != depth:
        raise ValueError("rows of different lengths")
    encoded = np.empty(text.shape, np.object_)
    encoded.ravel()[:] = [item.encode() for item in text.flat]
    return encoded
