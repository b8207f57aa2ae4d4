"""Sound for the wake-word model, and the bare runtime to compare the agent with."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
STEP_S = 0.010
FRAMES = 3
"""Feature frames that the model takes at once; each covers 10 ms."""
BANDS = 40


def windows(count: int) -> list[NDArray[np.int8]]:
    """Return that many windows, int8 [1, 3, 40], of a tone that sweeps through the bands over some noise.

    The bands are evenly spaced in the logarithm of the frequency, scaled to the model's int8 range; close
    enough to a microphone's for comparing two runs of one model.
    """
    dice = np.random.default_rng(0)
    time_s = np.arange(count * FRAMES * int(RATE_HZ * STEP_S)) / RATE_HZ
    sound = np.sin(2 * np.pi * (200 + 1500 * time_s / time_s[-1]) * time_s) + 0.1 * dice.standard_normal(
        time_s.size
    )
    spectra = np.abs(np.fft.rfft(sound.reshape(count * FRAMES, -1), n=512))
    edges = np.geomspace(3, 256, BANDS + 1)
    bands = np.stack(
        [spectra[:, int(low) : int(high) + 1].sum(1) for low, high in itertools.pairwise(edges)], 1
    )
    levels = np.clip(np.log1p(bands) * 50 - 128, -128, 127).astype(np.int8)
    return list(levels.reshape(count, 1, FRAMES, BANDS))


def run_bare(model: Path, inputs: Sequence[NDArray[np.int8]]) -> list[NDArray[Any]]:
    """Run the model on each input with the TFLite runtime alone, its state reset before each."""
    interpreter = _interpreter(model)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = []
    for window in inputs:
        interpreter.reset_all_variables()
        interpreter.set_tensor(source["index"], window)
        interpreter.invoke()
        answers.append(interpreter.get_tensor(result["index"]))
    return answers


def _interpreter(model: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    return Interpreter(model_path=str(model))
