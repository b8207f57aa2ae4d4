"""Fit a tiny CNN that tells tones, noise and clicks apart, and write it with its sounds into a folder.

`sounds.onnx` takes log-mel spectrograms, as models of sound mostly do. `sounds.npz` holds what a microphone
gives, INT16 samples, since that is what the packaged model takes; see audio.toml.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

RATE_HZ, SAMPLES = 16000, 8000
FRAME, HOP, BANDS = 400, 160, 24
FRAMES = (SAMPLES - FRAME) // HOP + 1
FLOOR = 1e-6
FILTERS = 8
KINDS = ("tone", "noise", "clicks")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Ears:
    """A fitted CNN: random filters [8, 3, 3], then [8 * (bands - 2), 3], filters first, and its bias [3]."""

    filters: Floats
    last: Floats
    bias: Floats


def sounds(count: int, seed: int) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Draw half a second each, INT16 [count, 8000], and the number of its kind."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, len(KINDS), count)
    time = np.arange(SAMPLES) / RATE_HZ
    drawn = random.normal(0, 0.01, (count, SAMPLES))
    for sound, kind in zip(drawn, kinds, strict=True):
        if kind == 0:
            sound += random.uniform(0.2, 0.6) * np.sin(2 * np.pi * random.uniform(200, 4000) * time)
        elif kind == 1:
            sound += random.normal(0, random.uniform(0.1, 0.3), SAMPLES)
        else:
            sound[:: int(random.integers(800, 2000))] += random.uniform(0.5, 0.9)
    return (np.clip(drawn, -1, 1) * 32767).astype(np.int16), kinds


def log_mel(samples: NDArray[np.int16]) -> Floats:
    """Return spectrograms [n, frames, bands], as they are mostly computed for training: with an FFT."""
    windows = np.lib.stride_tricks.sliding_window_view(samples / 32768.0, FRAME, axis=1)[:, ::HOP]
    # A periodic Hann window is a symmetric one of one sample more without its last.
    power = np.abs(np.fft.rfft(windows * np.hanning(FRAME + 1)[:-1])) ** 2
    hertz = np.fft.rfftfreq(FRAME, 1 / RATE_HZ)
    bottom, top = (2595 * np.log10(1 + edge / 700) for edge in (20.0, RATE_HZ / 2))
    corners = 700 * (10 ** (np.linspace(bottom, top, BANDS + 2) / 2595) - 1)
    bands = [
        power @ np.interp(hertz, corners[band : band + 3], (0.0, 1.0, 0.0), left=0, right=0)
        for band in range(BANDS)
    ]
    return np.log(np.stack(bands, axis=-1) + FLOOR).astype(np.float32)


def fitted() -> Ears:
    """Fit the last layer to 300 sounds by least squares."""
    filters = np.random.default_rng(0).normal(0, 0.2, (FILTERS, 3, 3)).astype(np.float32)
    samples, kinds = sounds(300, seed=0)
    windows = np.lib.stride_tricks.sliding_window_view(log_mel(samples), (3, 3), axis=(1, 2))
    pooled = np.maximum(np.einsum("nxyab,fab->nfxy", windows, filters), 0).mean(axis=2)
    design = np.concatenate([pooled.reshape(len(pooled), -1), np.ones((len(pooled), 1))], axis=1)
    ridge = design.T @ design + np.eye(design.shape[1])
    # Scores of 8 and 0 give clear probabilities.
    solution = np.linalg.solve(ridge, design.T @ (8 * np.eye(len(KINDS))[kinds])).astype(np.float32)
    return Ears(filters, solution[:-1], solution[-1])


def write_onnx(path: Path, ears: Ears) -> Path:
    """Write the CNN: `sound` FP32 [n, 1, frames, bands] to `scores` FP32 [n, 3]."""
    constants = {"filters": ears.filters[:, None], "last": ears.last, "bias": ears.bias}
    nodes = [
        helper.make_node("Conv", ["sound", "filters"], ["convolved"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["convolved"], ["positive"], name="relu"),
        helper.make_node("AveragePool", ["positive"], ["pooled"], name="pool", kernel_shape=[FRAMES - 2, 1]),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "last", "bias"], ["scores"], name="gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "sounds",
        [helper.make_tensor_value_info("sound", TensorProto.FLOAT, ["n", 1, FRAMES, BANDS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", len(KINDS)])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def main(folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(folder / "sounds.onnx", fitted())
    samples, kinds = sounds(400, seed=1)
    np.savez(folder / "sounds.npz", sound=samples, y=kinds)
    print(f"Wrote {folder / 'sounds.onnx'} and {folder / 'sounds.npz'}.")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
