"""A real recording, and a model that hears speech; scripts/fetch-test-files puts both into .cache/models."""

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MODELS = Path(__file__).parents[2] / ".cache/models"
SILERO = MODELS / "silero_vad_16k_op15.onnx"
RATE = 16_000


def recording() -> NDArray[np.float32]:
    """Return a telephone call, resampled from 8 to 16 kHz."""
    telephone = np.fromfile(MODELS / "test-audio.raw", "<i2").astype(np.float32) / 2**15
    places = np.arange(2 * len(telephone)) / 2
    return np.interp(places, np.arange(len(telephone)), telephone).astype(np.float32)


def write_wav(path: Path) -> Path:
    """Write the recording as a .wav file of 16 bits."""
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes((recording() * 2**15).astype("<i2").tobytes())
    return path
