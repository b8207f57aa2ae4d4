"""WAV files as a model takes them: mono, in the file's own rate.

Samples are counted in steps of 16 bits whatever the file has: -32768 to 32767, with fractions from 24 and 32
bits. Source: Python's `wave` module, which reads PCM.
"""

import re
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import shown
from converters.data.casting import check_numeric, scaled
from converters.data.settings import DataSettings
from converters.errors import DataError
from edge_agent.documents.tensors import TensorSpec

USUAL_SCALE: Final = 1 / 32768
_CODES: Final = {
    3: "floats", 6: "A-law", 7: "mu-law", 17: "ADPCM", 85: "MP3", 65534: "an extensible header",
}  # fmt: skip
_INT16: Final = np.iinfo(np.int16)


@dataclass(frozen=True, slots=True)
class Header:
    """What a WAV file says of itself."""

    rate_hz: int
    frames: int


def common_rate(paths: Sequence[Path]) -> int:
    """Return the sample rate that all files have; raises DataError when they differ."""
    first = read_header(paths[0]).rate_hz
    for path in paths[1:]:
        if (rate := read_header(path).rate_hz) != first:
            raise DataError(
                f"The files differ in sample rate ({paths[0].name} has {first} Hz, {path.name} {rate} Hz); "
                "resample them to the model's."
            )
    return first


def common_length(paths: Sequence[Path]) -> int:
    """Return the number of samples that all files have; raises DataError when they differ."""
    first = read_header(paths[0]).frames
    for path in paths[1:]:
        if (frames := read_header(path).frames) != first:
            raise DataError(
                f"The files differ in length ({paths[0].name} has {first} samples, {path.name} {frames}) and "
                "the model's is not known; cut or pad them to one length."
            )
    return first


def fit(paths: Sequence[Path], spec: TensorSpec, settings: DataSettings) -> Iterator[NDArray[Any]]:
    """Read each file as one run's tensor for an input, cut or padded with zeros to a fixed length.

    Raises DataError for what does not fit or is damaged.
    """
    check_numeric(spec)
    axis = _axis(spec)
    common_rate(paths)
    length = spec.shape[axis] if spec.shape[axis] != -1 else common_length(paths)
    for path in paths:
        shape = [1] * len(spec.shape)
        shape[axis] = length
        values = _of_length(read_wave(path), length)
        if spec.datatype.startswith("INT"):
            values = np.clip(np.rint(values), _INT16.min, _INT16.max)
        yield scaled(spec, values.reshape(shape), settings.scale, USUAL_SCALE)


def stacked(paths: Sequence[Path], settings: DataSettings, length: int) -> NDArray[np.float32]:
    """Read files of one length as floats [n, samples], multiplied by the scale."""
    factor = USUAL_SCALE if settings.scale is None else settings.scale
    rows = [(_of_length(read_wave(path), length) * factor).astype(np.float32) for path in paths]
    return np.stack(rows)


def read_header(path: Path) -> Header:
    """Return the sample rate and length; raises DataError for what is no PCM WAV file."""
    with _opened(path) as file:
        return Header(file.getframerate(), file.getnframes())


def read_wave(path: Path) -> NDArray[np.float64]:
    """Return the mean of the channels, [samples], in steps of 16 bits; raises DataError when it is damaged."""
    with _opened(path) as file:
        channels, width, frames = file.getnchannels(), file.getsampwidth(), file.getnframes()
        try:
            content = file.readframes(frames)
        except (wave.Error, EOFError, OSError) as error:
            raise DataError(f"{path} is damaged; repair or remove it.") from error
    if len(content) != frames * channels * width:
        raise DataError(f"{path} is truncated: it says {frames} samples and has fewer; repair or remove it.")
    if not frames:
        raise DataError(f"{path} holds no samples; remove it.")
    mono: NDArray[np.float64] = _decoded(content, width).reshape(frames, channels).mean(axis=1)
    return mono


def _opened(path: Path) -> wave.Wave_read:
    try:
        # Whoever calls closes it.
        file = wave.open(str(path), "rb")  # noqa: SIM115
    except (wave.Error, EOFError, OSError, RuntimeError) as error:
        code = re.search(r"unknown format: (\d+)", str(error))
        if code is None:
            raise DataError(f"{path} is not a WAV file, or damaged; repair or remove it.") from error
        number = int(code[1])
        raise DataError(
            f"{path} is a WAV file with {_CODES.get(number, f'format {number}')}; only plain PCM of 8, 16, 24 "
            "or 32 bits is read: save it as 16-bit PCM."
        ) from error
    if file.getsampwidth() > 4:
        file.close()
        raise DataError(f"{path} has more than 32 bits a sample; save it as 16-bit PCM.")
    return file


def _decoded(content: bytes, width: int) -> NDArray[np.float64]:
    """Return the numbers of little-endian PCM in steps of 16 bits; 8 bits are unsigned, the others signed."""
    if width == 1:
        return (np.frombuffer(content, np.uint8).astype(np.float64) - 128) * 256
    if width == 2:
        return np.frombuffer(content, "<i2").astype(np.float64)
    if width == 4:
        return np.frombuffer(content, "<i4").astype(np.float64) / 65536
    raw = np.frombuffer(content, np.uint8).reshape(-1, 3)
    wide = np.zeros((len(raw), 4), np.uint8)
    wide[:, 1:] = raw
    return wide.view("<i4").ravel().astype(np.float64) / 65536


def _of_length(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    cut = values[:length]
    return np.pad(cut, (0, length - len(cut)))


def _axis(spec: TensorSpec) -> int:
    """Return the axis that the samples go along: the one that is not for one file or one channel."""
    shape = spec.shape
    axis = {1: 0, 2: 1, 3: 1 if shape[-1] == 1 else 2}.get(len(shape)) if shape else None
    if axis is None or any(size not in (-1, 1) for at, size in enumerate(shape) if at != axis):
        raise DataError(
            f"Input '{spec.name}' has shape {shown(shape)}, which holds no mono samples; give an .npz file "
            "with arrays as it takes them."
        )
    return axis
