"""A WAV file as the samples that a model takes: mono, in the file's own rate.

PCM of 8, 16, 24 and 32 bits and floats of 32 and 64, with a plain or an extensible header; Python's `wave`
reads no floats, and before 3.12 no extensible header. Samples are read as `edge-convert` reads those of data.
Source: http://soundfile.sapp.org/doc/WaveFormat/ and Microsoft's WAVEFORMATEXTENSIBLE.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import NUMPY_NAME, TensorSpec

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_FLOATS: Final = ("FP16", "FP32", "FP64")
_FORMAT: Final = struct.Struct("<HHIIHH")
_SUBFORMAT_AT: Final = 24
"""Where an extensible header has the format that the plain one has at its start."""
_INT16: Final = np.iinfo(np.int16)
_FULL_SCALE: Final = 32768.0


@dataclass(frozen=True, slots=True)
class Sound:
    """What a WAV file holds."""

    rate_hz: int
    samples: NDArray[np.float64]
    """[samples], from -1 to 1: the mean of the channels."""


def samples(content: bytes, spec: TensorSpec, name: str) -> NDArray[Any]:
    """Return a WAV file as the tensor that an input takes, cut or padded with zeros to a fixed length.

    INT16 as PCM of 16 bits has them, floats from -1 to 1; `name` is the file's, for messages. Raises
    RequestError for an input that takes no samples and a file that is damaged.
    """
    axis = _axis(spec)
    if axis is None:
        raise RequestError(
            f"{name} is a sound, and input '{spec.name}' takes {spec.datatype} {list(spec.shape)}, not samples "
            "(INT16 or floats, [n, samples]); give an .npy file as the model takes it, or let 'edge-convert "
            "build' write the steps before the model into its graph, by [preprocess.audio] in the recipe."
        )
    values = read(content, name).samples
    if spec.shape[axis] != -1:
        values = _of_length(values, spec.shape[axis])
    if spec.datatype == "INT16":
        values = np.clip(np.rint(values * _FULL_SCALE), _INT16.min, _INT16.max)
    shape = [1] * len(spec.shape)
    shape[axis] = len(values)
    return values.astype(NUMPY_NAME[spec.datatype]).reshape(shape)


def read(content: bytes, name: str) -> Sound:
    """Read a WAV file; raises RequestError for what is damaged or encoded otherwise."""
    chunks = dict(_chunks(content))
    try:
        header = chunks[b"fmt "]
        kind, channels, rate_hz, _, frame_bytes, bits = _FORMAT.unpack_from(header)
        if kind == _EXTENSIBLE:
            kind = int.from_bytes(header[_SUBFORMAT_AT : _SUBFORMAT_AT + 2], "little")
        data = chunks[b"data"]
    except (KeyError, struct.error) as error:
        raise RequestError(f"{name} is a damaged WAV file: it has no format or no samples.") from error
    width = bits // 8
    if bits % 8 or not channels or frame_bytes != channels * width or not rate_hz:
        raise RequestError(f"{name} is a damaged WAV file: its header contradicts itself.")
    whole = len(data) // frame_bytes * frame_bytes
    values = _numbers(data[:whole], kind, width)
    if values is None:
        raise RequestError(
            f"{name} is a WAV file of format {kind} with {bits} bits; save it as PCM of 16 bits."
        )
    if not values.size:
        raise RequestError(f"{name} holds no samples.")
    if not np.isfinite(values).all():
        raise RequestError(f"{name} holds samples that are no numbers; save it again.")
    return Sound(rate_hz, values.reshape(-1, channels).mean(axis=1))


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the chunks of a RIFF file, first come last, so that of several of a name the first counts."""
    view = memoryview(content)
    found, position = [], 12
    while position + 8 <= len(view):
        (length,) = struct.unpack_from("<I", view, position + 4)
        # Programs that write to a pipe leave the length of the samples at its largest.
        found.append((bytes(view[position : position + 4]), view[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    yield from reversed(found)


def _numbers(data: memoryview, kind: int, width: int) -> NDArray[np.float64] | None:
    """Return samples from -1 to 1, or None for an encoding that is not read; 8 bits are unsigned."""
    if kind == _FLOAT and width in (4, 8):
        return np.frombuffer(data, f"<f{width}").astype(np.float64)
    if kind != _PCM or width not in (1, 2, 3, 4):
        return None
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4").ravel() / 2.0**31
    return np.frombuffer(data, f"<i{width}") / 2.0 ** (8 * width - 1)


def _of_length(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    cut = values[:length]
    return np.pad(cut, (0, length - len(cut)))


def _axis(spec: TensorSpec) -> int | None:
    """Return the axis that the samples go along: the one that is not for one file or one channel."""
    shape = spec.shape
    if spec.datatype not in ("INT16", *_FLOATS) or not 1 <= len(shape) <= 3:
        return None
    axis = {1: 0, 2: 1, 3: 1 if shape[-1] == 1 else 2}[len(shape)]
    rest = [size for at, size in enumerate(shape) if at != axis]
    return axis if shape[axis] != 1 and all(size in (-1, 1) for size in rest) else None
