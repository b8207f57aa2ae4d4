"""Drawings with and without a face for a face detector, and the bare runtime to compare the agent with.

The model, MediaPipe's for short range, takes float32 [1, 128, 128, 3] in [-1, 1]. It returns `regressors`
[1, 896, 16] and `classificators` [1, 896, 1]: for each of 896 places the logit of a face being there.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 128
THRESHOLD = 0.7

SKIN, HAIR, LIPS, SHADOW = (224, 172, 140), (60, 40, 30), (170, 70, 70), (120, 70, 60)
WHITE, PUPIL = (240, 240, 240), (40, 25, 20)

Image = NDArray[np.float32]


def drawings(count: int) -> list[tuple[bool, Image]]:
    """Return that many drawings for the model; every second one shows a face, of varying place and size."""
    dice = np.random.default_rng(0)
    return [(index % 2 == 0, _drawing(dice, with_face=index % 2 == 0)) for index in range(count)]


def shows_face(outputs: Mapping[str, NDArray[Any]]) -> bool:
    """Say whether the model found a face anywhere."""
    logit = float(outputs["classificators"].max())
    return 1 / (1 + math.exp(-logit)) > THRESHOLD


def run_bare(model: Path, images: Sequence[Image]) -> list[dict[str, NDArray[Any]]]:
    """Run the model on each image with the TFLite runtime alone; return the outputs by name."""
    with _native_messages_hidden():
        interpreter = _interpreter(model)
        interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    results = interpreter.get_output_details()
    answers = []
    for image in images:
        interpreter.set_tensor(source["index"], image)
        interpreter.invoke()
        answers.append({result["name"]: interpreter.get_tensor(result["index"]) for result in results})
    return answers


def _drawing(dice: np.random.Generator, *, with_face: bool) -> Image:
    picture = dice.uniform(90, 150) + dice.normal(0, 3, (SIZE, SIZE, 3))
    if with_face:
        _draw_face(picture, dice.uniform(54, 74), dice.uniform(54, 74), dice.uniform(20, 35))
    scaled: Image = (np.clip(picture, 0, 255)[np.newaxis] / 127.5 - 1).astype(np.float32)
    return scaled


def _draw_face(picture: NDArray[np.float64], x: float, y: float, radius: float) -> None:
    def ellipse(right: float, down: float, width: float, height: float, colour: tuple[int, int, int]) -> None:
        rows, columns = np.mgrid[0:SIZE, 0:SIZE]
        far = ((columns - x) / radius - right) ** 2 / width**2 + ((rows - y) / radius - down) ** 2 / height**2
        light = 1 - 0.35 * far if colour == SKIN else np.ones_like(far)
        picture[far < 1] = light[far < 1, np.newaxis] * np.array(colour)

    ellipse(0, -0.25, 1.05, 1.35, HAIR)
    ellipse(0, 0, 0.85, 1.15, SKIN)
    for side in (-1, 1):
        ellipse(side * 0.34, -0.15, 0.17, 0.09, WHITE)
        ellipse(side * 0.34, -0.15, 0.08, 0.09, PUPIL)
        ellipse(side * 0.34, -0.36, 0.22, 0.05, HAIR)
        ellipse(side * 0.09, 0.27, 0.05, 0.04, SHADOW)
    ellipse(0, 0.58, 0.30, 0.09, LIPS)


@contextmanager
def _native_messages_hidden() -> Iterator[None]:
    """Keep the runtime's own greetings, written by native code, out of the story."""
    saved = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _interpreter(model: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    return Interpreter(model_path=str(model))
