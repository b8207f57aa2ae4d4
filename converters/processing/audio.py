"""How samples become what an audio model takes, decided from the settings and the input's signature. Pure."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import shown
from converters.errors import ConversionError
from converters.processing import spectrogram
from converters.processing.settings import AudioSettings
from converters.processing.signature import Shape, check_float
from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import TensorSpec

SAMPLE_SCALE: Final = 1 / 32768
"""From INT16 to -1..1."""


@dataclass(frozen=True, slots=True)
class SamplesPlan:
    """From INT16 [n, samples] to floats from -1 to 1."""

    name: str
    raw: Shape
    new_axes: tuple[int, ...]
    """Where dimensions of 1 are put in."""
    drops_batch: bool
    """The model takes one row of samples, without a batch."""


@dataclass(frozen=True, slots=True)
class LogMelPlan:
    """From INT16 [n, samples] to a log-mel spectrogram.

    Frames are cut by a convolution over blocks: the greatest common divisor of frame and hop. A kernel then
    covers whole blocks, and the runtimes' matrix products have something to do; one sample as a block would
    be the plain convolution.
    """

    name: str
    raw: Shape
    used_samples: int
    """From the first to the last sample of the last frame; what is sent beyond is dropped."""
    frames: int
    block_samples: int
    transposed: bool
    """The model takes [mel bands, frames]."""
    target: Shape
    settings: AudioSettings

    def fourier(self) -> NDArray[np.float32]:
        """Return [2 * bins, frame samples]: what a frame is multiplied with for its real and imaginary part."""
        return spectrogram.fourier_rows(self.settings.frame_samples)

    def mel(self) -> NDArray[np.float32]:
        """Return [mel bands, 2 * bins]: weights of the squares of both parts, whose sum is the power."""
        one = self.settings
        high_hz = one.rate_hz / 2 if one.high_hz is None else one.high_hz
        bins = one.frame_samples // 2 + 1
        rows = spectrogram.mel_rows(bins, one.rate_hz, one.mel_bins, one.low_hz, high_hz)
        return np.concatenate([rows, rows], axis=1)


def plan_audio(settings: AudioSettings, spec: TensorSpec) -> SamplesPlan | LogMelPlan:
    """Return how samples become what this input takes."""
    check_float(spec)
    return _plan_samples(settings, spec) if settings.features == "samples" else _plan_log_mel(settings, spec)


def _plan_samples(settings: AudioSettings, spec: TensorSpec) -> SamplesPlan:
    drops_batch = len(spec.shape) == 1
    batch, *rest = (1, *spec.shape) if drops_batch else spec.shape or (1,)
    long = [axis for axis, size in enumerate(rest) if size != 1]
    if len(long) != 1:
        raise ConversionError(
            f"Input '{spec.name}' has the shape {shown(spec.shape)}, which is no row of samples; check "
            "preprocess.audio.input, or set preprocess.audio.features to 'log-mel' for a spectrogram."
        )
    own = rest[long[0]]
    if settings.samples is not None and own not in (-1, settings.samples):
        raise RequestError(
            f"Input '{spec.name}' takes {own} samples; set preprocess.audio.samples to {own} or leave it out."
        )
    return SamplesPlan(
        name=spec.name,
        raw=(batch, settings.samples or own),
        new_axes=tuple(axis + 1 for axis in range(len(rest)) if axis != long[0]),
        drops_batch=drops_batch,
    )


def _plan_log_mel(settings: AudioSettings, spec: TensorSpec) -> LogMelPlan:
    _check_bands(settings)
    frames_axis, mels_axis = _spectrogram_axes(settings, spec)
    frames = _frames(settings, spec, spec.shape[frames_axis])
    used = settings.frame_samples + (frames - 1) * settings.hop_samples
    target = list(spec.shape)
    target[frames_axis], target[mels_axis] = frames, settings.mel_bins
    return LogMelPlan(
        name=spec.name,
        raw=(spec.shape[0], used if settings.samples is None else settings.samples),
        used_samples=used,
        frames=frames,
        block_samples=math.gcd(settings.frame_samples, settings.hop_samples),
        transposed=mels_axis < frames_axis,
        target=tuple(target),
        settings=settings,
    )


def _frames(settings: AudioSettings, spec: TensorSpec, own: int) -> int:
    """Return the number of frames; `own` is what the model takes, -1 for any."""
    frame, hop, sent = settings.frame_samples, settings.hop_samples, settings.samples
    if sent is None:
        if own == -1:
            raise RequestError(
                f"Input '{spec.name}' takes any number of frames; say how many samples apps send with "
                "preprocess.audio.samples."
            )
        return own
    frames = (sent - frame) // hop + 1
    if frames < 1:
        raise RequestError(
            f"{sent} samples are less than a frame; set preprocess.audio.samples to {frame} or more."
        )
    if own not in (-1, frames):
        raise RequestError(
            f"{sent} samples are {frames} frames of {frame} samples every {hop}, and input '{spec.name}' takes "
            f"{own}; set preprocess.audio.samples to {frame + (own - 1) * hop} or leave it out."
        )
    return frames


def _check_bands(settings: AudioSettings) -> None:
    high = settings.rate_hz / 2 if settings.high_hz is None else settings.high_hz
    if not settings.low_hz < high <= settings.rate_hz / 2:
        raise RequestError(
            f"Mel bands from {settings.low_hz:g} to {high:g} Hz do not fit a rate of {settings.rate_hz} Hz; "
            f"set preprocess.audio.low_hz below high_hz, and high_hz to {settings.rate_hz / 2:g} at most."
        )


def _spectrogram_axes(settings: AudioSettings, spec: TensorSpec) -> tuple[int, int]:
    """Return which dimensions are the frames and the mel bands."""
    shape, mels = spec.shape, settings.mel_bins
    planes = {3: [(1, 2)], 4: [(2, 3)] * (shape[1] == 1) + [(1, 2)] * (shape[-1] == 1)}.get(len(shape), [])
    for first, last in planes:
        if shape[last] == mels:
            return first, last
        if shape[first] == mels:
            return last, first
    raise ConversionError(
        f"Input '{spec.name}' has the shape {shown(shape)}, which is no spectrogram of {mels} mel bands; "
        "check preprocess.audio.input and mel_bins."
    )
