"""Constants of a log-mel spectrogram, as what two convolutions need. Pure.

The same as torchaudio's `MelSpectrogram(center=False, power=2)` with its defaults (periodic Hann window, HTK
mel scale, triangles of height 1 over the frequencies), then log(x + floor). Sources:
https://docs.pytorch.org/audio/stable/generated/torchaudio.functional.melscale_fbanks.html and, for the mel
scale, D. O'Shaughnessy, "Speech communication: human and machine", 1987.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_MELS: Final = 2595.0
_CORNER_HZ: Final = 700.0


def fourier_rows(frame_samples: int) -> Floats:
    """Return [2 * bins, frame_samples]: the windowed cosines of every frequency, then the sines.

    A frame times these rows is the real and the imaginary part of its Fourier transform; there are
    frame_samples // 2 + 1 bins.
    """
    time = np.arange(frame_samples)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * time / frame_samples)
    # Whole turns are taken off before the division: the angles stay small and exact.
    angles = 2 * np.pi * (np.outer(np.arange(frame_samples // 2 + 1), time) % frame_samples) / frame_samples
    rows: Doubles = np.concatenate([np.cos(angles), -np.sin(angles)]) * window
    return rows.astype(np.float32)


def mel_rows(bins: int, rate_hz: int, mel_bins: int, low_hz: float, high_hz: float) -> Floats:
    """Return [mel_bins, bins]: the weight of every frequency's power in each mel band.

    With many bands and short frames the lowest triangles may lie between two frequencies; they are then all
    zero, as in torchaudio.
    """
    frequencies = np.linspace(0, rate_hz / 2, bins)
    corners = _hertz(np.linspace(_mel(low_hz), _mel(high_hz), mel_bins + 2))[:, None]
    rising = (frequencies - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies) / (corners[2:] - corners[1:-1])
    rows: Doubles = np.maximum(0.0, np.minimum(rising, falling))
    return rows.astype(np.float32)


def _mel(hertz: float) -> float:
    return float(_MELS * np.log10(1 + hertz / _CORNER_HZ))


def _hertz(mels: Doubles) -> Doubles:
    hertz: Doubles = _CORNER_HZ * (10 ** (mels / _MELS) - 1)
    return hertz
