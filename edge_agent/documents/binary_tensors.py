"""Tensors as bytes, the way the binary data extension of the Open Inference Protocol lays them out.

Row-major, little-endian, without padding; each element of BYTES is its length in 4 bytes and then its content.
Source: Triton Inference Server, protocol/extension_binary_data.md.
"""

import math
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import ITEM_SIZE_BYTES, NUMPY_NAME

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
"""The HTTP header that tells how many bytes of a body are JSON; the rest are tensors."""

_LENGTH: Final = struct.Struct("<I")
_DTYPES: Final = {datatype: np.dtype(name) for datatype, name in NUMPY_NAME.items()}


def encode(tensor: NDArray[Any], datatype: str) -> memoryview:
    """Return a tensor's bytes; those of a C-contiguous one are not copied. BYTES are bytes or str."""
    if datatype == "BYTES":
        parts: list[bytes] = []
        for item in tensor.flat:
            content = item.encode() if isinstance(item, str) else bytes(item)
            parts += (_LENGTH.pack(len(content)), content)
        return memoryview(b"".join(parts))
    if not tensor.dtype.isnative:
        tensor = tensor.astype(tensor.dtype.newbyteorder("="))
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


def decode(content: memoryview, name: str, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the tensor of this datatype and shape that the bytes are, BYTES as an object array of bytes.

    It may share the memory of `content`, and then is read-only. Raises RequestError when the size is wrong, or
    an element is not one of the datatype.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return _decode_bytes(content, name, count).reshape(shape)
    wanted = count * ITEM_SIZE_BYTES[datatype]
    if content.nbytes != wanted:
        raise RequestError(
            f"'{name}' has {content.nbytes} bytes of data, {datatype} of shape {list(shape)} needs {wanted}."
        )
    if datatype == "BOOL" and content.nbytes and np.frombuffer(content, np.uint8).max() > 1:
        raise RequestError(f"'{name}' is BOOL and has a byte other than 0 and 1.")
    tensor = np.frombuffer(content, _DTYPES[datatype]).reshape(shape)
    # Runtimes read through aligned pointers, and the data begin wherever the JSON before them ended.
    return tensor if tensor.flags.aligned else tensor.copy()


def _decode_bytes(content: memoryview, name: str, count: int) -> NDArray[Any]:
    # Each element takes 4 bytes at least: a shape that lies about its count must not cost its memory.
    if count * _LENGTH.size > content.nbytes:
        raise RequestError(
            f"'{name}' has {content.nbytes} bytes of data, too few for {count} elements of BYTES."
        )
    tensor = np.empty(count, np.object_)
    position = 0
    for index in range(count):
        end = position + _LENGTH.size
        if end <= content.nbytes:
            end += _LENGTH.unpack_from(content, position)[0]
        if end > content.nbytes:
            raise RequestError(f"Element {index} of '{name}' reaches past the end of its data.")
        tensor[index] = bytes(content[position + _LENGTH.size : end])
        position = end
    if position != content.nbytes:
        raise RequestError(f"'{name}' has {content.nbytes - position} bytes of data after its last element.")
    return tensor
